//! What the data set promises.

use std::collections::HashSet;

use longcat_shapes::{
    Background, Colour, DatasetOptions, JUDGED_PROMPTS, Motion, Raster, RenderedClip, Sample,
    Shape, ShapesDataset, Size, Split, caption, is_held_out, prompts, psnr,
};

fn train(seed: u64) -> ShapesDataset {
    ShapesDataset::new(seed, Split::Train, DatasetOptions::default())
}

fn triples(sample: &Sample) -> impl Iterator<Item = (Shape, Colour, Motion)> + '_ {
    sample
        .scene
        .objects
        .iter()
        .map(|o| (o.shape, o.colour, o.motion))
}

#[test]
fn a_sample_is_a_function_of_seed_and_index() {
    let raster = Raster::default();
    for index in 0..20 {
        let (a, b) = (train(3).get(index), train(3).get(index));
        assert_eq!(a, b);
        assert_eq!(a.render(&raster), b.render(&raster));
        assert_ne!(a.scene, train(4).get(index).scene);
        assert_ne!(a.scene, train(3).get(index + 1).scene);
    }
    let first: Vec<Sample> = train(3).iter().take(5).collect();
    assert_eq!(first[4], train(3).get(4));
}

#[test]
fn splits_share_no_combination() {
    let held_out = ShapesDataset::new(0, Split::HeldOut, DatasetOptions::default());
    for (sample, other) in train(0).iter().zip(held_out.iter()).take(2000) {
        assert!(triples(&sample).all(|(s, c, m)| !is_held_out(s, c, m)));
        assert!(triples(&other).all(|(s, c, m)| is_held_out(s, c, m)));
    }
}

#[test]
fn a_tenth_is_held_out_and_every_word_is_taught() {
    let mut all = Vec::new();
    for &shape in Shape::USUAL {
        for &colour in Colour::ALL {
            for &motion in Motion::ALL {
                if motion != Motion::Rotating || shape.shows_rotation() {
                    all.push((shape, colour, motion));
                }
            }
        }
    }
    let (held_out, trained): (Vec<_>, Vec<_>) =
        all.iter().partition(|(s, c, m)| is_held_out(*s, *c, *m));
    let share = held_out.len() as f64 / all.len() as f64;
    assert!((0.08..0.12).contains(&share), "{share}");
    // Two of the words have been seen together, only the third is new.
    for (shape, colour, motion) in held_out {
        let with =
            |f: &dyn Fn(&(Shape, Colour, Motion)) -> bool| trained.iter().filter(|t| f(t)).count();
        assert!(with(&|t| t.0 == shape && t.1 == colour) >= 9);
        assert!(with(&|t| t.0 == shape && t.2 == motion) >= 7);
        assert!(with(&|t| t.1 == colour && t.2 == motion) >= 2);
    }
}

#[test]
fn everything_drawn_is_asked_for_visible_and_in_contrast() {
    let (mut backgrounds, mut sizes, mut motions) =
        (HashSet::new(), HashSet::new(), HashSet::new());
    let mut pairs = 0;
    for sample in train(1).iter().take(2000) {
        let background = sample.scene.background;
        backgrounds.insert(background);
        pairs += sample.scene.objects.len() - 1;
        for object in &sample.scene.objects {
            assert_ne!(object.shape, Shape::Heart);
            assert!(object.motion != Motion::Rotating || object.shape.shows_rotation());
            assert!(object.colour.contrasts_with(background));
            sizes.insert(object.size);
            motions.insert(object.motion);
        }
    }
    assert_eq!(backgrounds.len(), Background::ALL.len());
    assert_eq!(sizes.len(), Size::ALL.len());
    assert_eq!(motions.len(), Motion::ALL.len());
    assert!((400..600).contains(&pairs), "{pairs}");
}

#[test]
fn objects_stay_within_the_frame_at_any_length() {
    for frames in [17, 33] {
        let raster = Raster {
            frames,
            ..Raster::default()
        };
        let options = DatasetOptions {
            shapes: Shape::ALL.to_vec(),
            seconds: raster.seconds(),
            ..DatasetOptions::default()
        };
        for sample in ShapesDataset::new(2, Split::Train, options)
            .iter()
            .take(300)
        {
            let clip = sample.render(&raster);
            assert_eq!(clip.shape(), [frames, 64, 64]);
            let ground = sample.scene.background.rgb();
            for frame in clip.frames() {
                for (i, pixel) in frame.chunks_exact(3).enumerate() {
                    let edge = [i % 64, i / 64].iter().any(|c| [0, 63].contains(c));
                    assert!(!edge || pixel == ground, "{}", sample.caption);
                }
            }
        }
    }
}

#[test]
fn a_later_scene_shows_what_the_first_one_comes_to() {
    for sample in train(3).iter().take(300) {
        let later = sample.scene.clone().later(3.7);
        for (object, before) in later.objects.iter().zip(&sample.scene.objects) {
            let (found, expected) = (object.pose(0.9), before.pose(4.6));
            let turn = (found.angle - expected.angle) / std::f64::consts::TAU;
            let differences = [
                found.centre[0] - expected.centre[0],
                found.centre[1] - expected.centre[1],
                found.radius - expected.radius,
                turn - turn.round(),
            ];
            assert!(differences.iter().all(|d| d.abs() < 1e-9), "{object:?}");
        }
    }
}

#[test]
fn a_dented_clip_differs_in_its_first_frames_and_nowhere_else() {
    let raster = Raster::default();
    let mut differing = 0;
    for (index, sample) in train(3).iter().take(40).enumerate() {
        let (clean, dented) = (
            sample.render(&raster),
            sample.scene.render_dented(&raster, 5, index as u64),
        );
        let same: Vec<bool> = (clean.frames().zip(dented.frames()))
            .map(|(a, b)| a == b)
            .collect();
        assert!(same[5..].iter().all(|same| *same));
        differing += same[..5].iter().filter(|same| !**same).count();
    }
    assert!(differing > 190, "{differing} of 200");
}

#[test]
fn captions_say_what_is_drawn() {
    let mut with_background = 0;
    for sample in train(5).iter().take(1000) {
        let text = sample.caption.to_lowercase();
        for object in &sample.scene.objects {
            assert!(
                text.contains(&format!("{} {}", object.colour, object.shape)),
                "{text}"
            );
        }
        let named: Vec<_> = Background::ALL
            .iter()
            .filter(|b| text.contains(b.name()))
            .collect();
        match sample.expected.background {
            Some(background) => assert_eq!(named, [&background], "{text}"),
            None => assert!(named.is_empty(), "{text}"),
        }
        with_background += usize::from(sample.expected.background.is_some());
        if let [object] = sample.scene.objects[..] {
            let word = match object.motion {
                Motion::Growing => "grow",
                Motion::Shrinking => "shrink",
                Motion::Bouncing => "bounc",
                Motion::Rotating => "rotat",
                _ => "mov",
            };
            let synonym = ["smaller", "spin"].iter().any(|s| text.contains(s));
            assert!(text.contains(word) || synonym, "{text}");
            for direction in ["left", "right", "up", "down"] {
                let moves = object.motion.name().split('-').any(|d| d == direction);
                let bounces = object.motion == Motion::Bouncing;
                assert!(bounces || text.contains(direction) == moves, "{text}");
            }
        }
    }
    assert!((700..800).contains(&with_background));
}

#[test]
fn the_sentences_of_the_documentation_are_among_the_wordings() {
    let sentences = [
        (
            "a red circle moves right",
            Shape::Circle,
            Colour::Red,
            Motion::Right,
        ),
        (
            "a green star moves up on a black background",
            Shape::Star,
            Colour::Green,
            Motion::Up,
        ),
        (
            "on a black background, a small green star is moving upward",
            Shape::Star,
            Colour::Green,
            Motion::Up,
        ),
    ];
    for (sentence, shape, colour, motion) in sentences {
        let mut scene = train(0).get(0).scene;
        scene.background = Background::Black;
        scene.objects.truncate(1);
        let object = &mut scene.objects[0];
        (object.shape, object.colour, object.motion) = (shape, colour, motion);
        object.size = Size::Small;
        let said = (0..5000).any(|seed| caption(&scene, seed).0 == sentence);
        assert!(said, "{sentence}");
    }
}

/// Every second frame size, by averaging 2 × 2 pixels.
fn halved(clip: &RenderedClip, frame: usize) -> RenderedClip {
    let width = clip.width();
    let pixels: Vec<&[u8]> = clip.frames().collect();
    let mut data = Vec::new();
    for row in (0..clip.height()).step_by(2) {
        for column in (0..3 * width).filter(|c| c / 3 % 2 == 0) {
            let at = |r: usize, c: usize| {
                u16::from(pixels[frame][(row + r) * 3 * width + column + 3 * c])
            };
            data.push(((at(0, 0) + at(0, 1) + at(1, 0) + at(1, 1) + 2) / 4) as u8);
        }
    }
    RenderedClip::new(width / 2, clip.height() / 2, data).expect("half as large")
}

#[test]
fn a_refined_raster_shows_the_same_from_first_to_last_moment() {
    let raster = Raster::default();
    let refined = raster.refined();
    assert_eq!((refined.side, refined.frames), (128, 34));
    assert!((refined.seconds() - raster.seconds()).abs() < 1e-9);
    for sample in train(6).iter().take(30) {
        let (low, high) = (sample.render(&raster), sample.render(&refined));
        for (a, b) in [(0, 0), (16, 33)] {
            let frame = low.frames().nth(a).expect("17 frames").to_vec();
            let frame = RenderedClip::new(64, 64, frame).expect("one frame");
            let likeness = psnr(&frame, &halved(&high, b)).expect("of one size");
            assert!(likeness > 36.0, "{likeness} dB: {}", sample.caption);
        }
    }
}

#[test]
fn prompts_are_fixed_and_cover_all_words() {
    for split in [Split::Train, Split::HeldOut] {
        let all = prompts(split, Shape::USUAL, JUDGED_PROMPTS);
        assert_eq!(all, prompts(split, Shape::USUAL, JUDGED_PROMPTS));
        let objects: Vec<_> = all.iter().flat_map(triples).collect();
        assert_eq!(objects.len(), JUDGED_PROMPTS);
        let held_out = split == Split::HeldOut;
        assert!(
            objects
                .iter()
                .all(|(s, c, m)| is_held_out(*s, *c, *m) == held_out)
        );
        for shape in Shape::USUAL {
            assert!(
                objects.iter().filter(|o| o.0 == *shape).count() >= 10,
                "{shape}"
            );
        }
        for colour in Colour::ALL {
            assert!(objects.iter().any(|o| o.1 == *colour), "{colour}");
        }
        let motions: HashSet<_> = objects.iter().map(|o| o.2).collect();
        assert!(motions.len() >= Motion::ALL.len() - 2, "{motions:?}");
    }
    let hearts = prompts(Split::Train, &[Shape::Heart], 20);
    assert!(hearts.iter().all(|p| p.caption.contains("heart")));
}

#[test]
fn a_sample_survives_json() {
    let sample = train(8).get(0);
    let text = serde_json::to_string(&sample).expect("plain data");
    assert_eq!(
        serde_json::from_str::<Sample>(&text).expect("as written"),
        sample
    );
}
