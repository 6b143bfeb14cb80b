//! The judge is right about what is drawn, also when it is spoilt, and is not talked into anything.

use crate::spoil::{blurred, coarse, noisy};
use longcat_shapes::{
    Agreement, Background, Colour, DatasetOptions, Motion, Raster, RenderedClip, Sample, Shape,
    ShapesDataset, Split, judge,
};

const CLIPS: usize = 500;

fn samples(seed: u64, options: DatasetOptions, count: usize) -> Vec<Sample> {
    ShapesDataset::new(seed, Split::Train, options)
        .iter()
        .take(count)
        .collect()
}

/// Share of samples of which the judge gets everything right after `spoil`.
fn right(samples: &[Sample], raster: &Raster, spoil: impl Fn(RenderedClip) -> RenderedClip) -> f64 {
    let agrees = |sample: &&Sample| {
        let clip = spoil(sample.render(raster));
        judge(&clip).agrees(&sample.expected).all()
    };
    let share = samples.iter().filter(agrees).count() as f64 / samples.len() as f64;
    println!("{:.1} % right", 100.0 * share);
    share
}

#[test]
fn drawn_clips_are_recognised() {
    let samples = samples(100, DatasetOptions::default(), CLIPS);
    assert!(right(&samples, &Raster::default(), |clip| clip) >= 0.99);
}

#[test]
fn spoilt_clips_are_recognised() {
    let samples = samples(101, DatasetOptions::default(), 100);
    let raster = Raster::default();
    assert!(right(&samples, &raster, |clip| blurred(&clip, 1.0)) >= 0.95);
    assert!(right(&samples, &raster, |clip| noisy(&clip, 8.0, 1)) >= 0.95);
    assert!(right(&samples, &raster, |clip| coarse(&clip)) >= 0.95);
    assert!(
        right(&samples, &raster, |clip| noisy(
            &blurred(&clip, 1.0),
            8.0,
            1
        )) >= 0.95
    );
}

#[test]
fn longer_larger_and_new_ones_are_recognised() {
    let long = Raster {
        frames: 33,
        ..Raster::default()
    };
    let options = DatasetOptions {
        shapes: Shape::ALL.to_vec(),
        seconds: long.seconds(),
        ..DatasetOptions::default()
    };
    assert!(right(&samples(102, options.clone(), 100), &long, |clip| clip) >= 0.99);
    let large = Raster { side: 96, ..long };
    assert!(right(&samples(103, options, 50), &large, |clip| clip) >= 0.99);
    let refined = Raster::default().refined();
    let samples = samples(104, DatasetOptions::default(), 50);
    assert!(right(&samples, &refined, |clip| clip) >= 0.99);
}

#[test]
fn what_leaves_the_frame_is_recognised() {
    let raster = Raster::default();
    let options = DatasetOptions {
        two_objects: 0.0,
        ..DatasetOptions::default()
    };
    let mut leaving = samples(105, options, 300);
    leaving.retain(|s| s.scene.objects[0].motion.direction().is_some());
    for sample in &mut leaving {
        // Moved on so far that the middle ends at the edge.
        let object = &mut sample.scene.objects[0];
        let end = object.pose(raster.seconds()).centre;
        let direction = object.motion.direction().unwrap_or_default();
        let room = (0..2)
            .filter(|a| direction[*a] != 0.0)
            .map(|a| match direction[a] > 0.0 {
                true => 1.0 - end[a],
                false => end[a],
            });
        let room = room.fold(1.0, f64::min);
        for (place, step) in object.centre.iter_mut().zip(direction) {
            *place += step * room;
        }
    }
    assert!(right(&leaving, &raster, |clip| clip) >= 0.95);
}

#[test]
fn a_wrong_label_is_rejected() {
    let samples = samples(106, DatasetOptions::default(), 300);
    let other = |all: usize, index: usize, i: usize| (index + 1 + i % (all - 1)) % all;
    for (i, sample) in samples.iter().enumerate() {
        let verdict = judge(&sample.render(&Raster::default()));
        let wrong = |change: &dyn Fn(&mut longcat_shapes::ExpectedObject)| -> Agreement {
            let mut expected = sample.expected.clone();
            change(&mut expected.objects[0]);
            verdict.agrees(&expected)
        };
        let shape = wrong(&|o| o.shape = Shape::ALL[other(6, o.shape as usize, i)]);
        let colour = wrong(&|o| o.colour = Colour::ALL[other(8, o.colour as usize, i)]);
        let motion = wrong(&|o| o.motion = Motion::ALL[other(12, o.motion as usize, i)]);
        assert!(
            !shape.object() && !colour.object() && !motion.object(),
            "{}",
            sample.caption
        );
        if sample.scene.objects.len() == 1 {
            assert!(shape.colour && shape.motion && !shape.shape);
            assert!(colour.shape && colour.motion && !colour.colour);
            assert!(motion.shape && motion.colour && !motion.motion);
        }
        let mut expected = sample.expected.clone();
        expected.background = Some(Background::ALL[other(6, sample.scene.background as usize, i)]);
        assert!(!verdict.agrees(&expected).background);
    }
    // Labels of other clips.
    let pairs = samples.iter().zip(samples.iter().skip(1));
    let talked = pairs.filter(|(a, b)| {
        let same = a.expected.objects == b.expected.objects;
        !same
            && judge(&a.render(&Raster::default()))
                .agrees(&b.expected)
                .object()
    });
    assert_eq!(talked.count(), 0);
}

#[test]
fn nothing_is_seen_in_an_empty_clip_and_no_motion_in_a_still_one() {
    let empty = RenderedClip::new(64, 64, vec![8; 17 * 64 * 64 * 3]).expect("17 frames");
    for clip in [&empty, &noisy(&empty, 12.0, 1)] {
        let verdict = judge(clip);
        assert_eq!(verdict.background, Some(Background::Black));
        assert_eq!((verdict.count, verdict.objects.len()), (0, 0));
    }
    for sample in samples(107, DatasetOptions::default(), 50) {
        let first = sample.render(&Raster {
            frames: 1,
            ..Raster::default()
        });
        let still = RenderedClip::new(64, 64, first.data().repeat(17)).expect("17 frames");
        let verdict = judge(&noisy(&blurred(&still, 1.0), 8.0, 2));
        assert!(
            verdict.objects.iter().all(|o| o.motion.is_none()),
            "{}",
            sample.caption
        );
        assert!(!verdict.agrees(&sample.expected).motion);
    }
}

/// Every column twice.
fn widened(clip: &RenderedClip) -> RenderedClip {
    let data = clip
        .data()
        .chunks_exact(3)
        .flat_map(|p| p.repeat(2))
        .collect();
    RenderedClip::new(2 * clip.width(), clip.height(), data).expect("twice as wide")
}

#[test]
fn a_distorted_shape_is_none_of_those_known() {
    let options = DatasetOptions {
        two_objects: 0.0,
        ..DatasetOptions::default()
    };
    for sample in samples(108, options, 100) {
        let verdict = judge(&widened(&sample.render(&Raster::default())));
        assert!(
            !verdict.agrees(&sample.expected).shape,
            "{}",
            sample.caption
        );
    }
}

/// A red outline around the middle before black, `radius(angle)` pixels from it.
fn drawn(radius: impl Fn(f64) -> f64) -> RenderedClip {
    let pixels = (0..64 * 64).flat_map(|i| {
        let (x, y) = ((i % 64) as f64 - 31.5, (i / 64) as f64 - 31.5);
        let share = (0.5 + radius(y.atan2(x)) - x.hypot(y)).clamp(0.0, 1.0);
        [230.0, 30.0, 30.0].map(|ink| (8.0 + share * (ink - 8.0)) as u8)
    });
    let frame: Vec<u8> = pixels.collect();
    RenderedClip::new(64, 64, frame.repeat(17)).expect("17 frames")
}

#[test]
fn a_dented_disc_is_no_heart() {
    // The waves of a heart, twice and three times around, at full strength and at a third of it.
    let outline = |share: f64| {
        drawn(|angle| {
            let up = angle + std::f64::consts::FRAC_PI_2;
            14.0 * (1.0 - share * (0.096 * (2.0 * up).cos() + 0.150 * (3.0 * up).cos()))
        })
    };
    let shape = |clip: &RenderedClip| judge(clip).objects[0].shape;
    assert_eq!(shape(&outline(1.0)), Some(Shape::Heart));
    assert_ne!(shape(&outline(0.35)), Some(Shape::Heart));
}

#[test]
fn a_second_object_of_the_same_colour_is_counted() {
    let options = DatasetOptions {
        two_objects: 1.0,
        ..DatasetOptions::default()
    };
    for mut sample in samples(109, options, 50) {
        let (colour, radius) = (sample.scene.objects[0].colour, 0.12);
        for object in &mut sample.scene.objects {
            object.colour = colour;
            object.radius = radius;
        }
        sample.expected.objects.truncate(1);
        let verdict = judge(&sample.render(&Raster::default()));
        assert!(
            !verdict.agrees(&sample.expected).count,
            "{}",
            sample.caption
        );
    }
}

#[test]
fn tracks_follow_the_objects() {
    let raster = Raster::default();
    for sample in samples(110, DatasetOptions::default(), 50) {
        let verdict = judge(&sample.render(&raster));
        for object in &sample.scene.objects {
            let seen = verdict.objects.iter().find(|o| o.colour == object.colour);
            let seen = seen.expect("every object is recognised");
            // The heart and the triangle have their middle elsewhere than their centre of mass.
            for (i, place) in seen.track.iter().enumerate() {
                let place = place.expect("it is in sight");
                let truth = object.pose(raster.time(i)).centre.map(|c| c * 64.0);
                let away = (place[0] - truth[0]).hypot(place[1] - truth[1]);
                assert!(away < 0.5, "{away} pixels in frame {i}: {}", sample.caption);
            }
        }
    }
}
