//! The motion of an object, from its track, its area and the phase of its outline.

use std::f64::consts::TAU;

use super::object::Seen;
use super::profile::Profile;
use crate::shapes::metrics::Line;
use crate::{Motion, RenderedClip};

/// Sides of the frame that count as a motion.
const TRAVEL: f64 = 0.12;
/// Growth of the logarithm of the radius that counts as growing.
const GROWTH: f64 = 0.22;
/// Radians that count as rotating.
const TURN: f64 = 0.6;
/// Deviation from a straight line, in sides, that counts as bouncing.
const SWING: f64 = 0.035;
/// Least number of frames that a motion is read from.
const LEAST_FRAMES: usize = 4;
/// Least share of the frames that an object is seen in.
const LEAST_SEEN: f64 = 0.6;

/// What the object does over the clip; `None` for nothing, or if it is seen too seldom.
pub(super) fn motion(seen: &[Option<Seen>], clip: &RenderedClip) -> Option<Motion> {
    let present: Vec<(f64, &Seen)> = seen
        .iter()
        .enumerate()
        .filter_map(|(i, s)| Some((i as f64, s.as_ref()?)))
        .collect();
    if present.len() < LEAST_FRAMES || (present.len() as f64) < LEAST_SEEN * seen.len() as f64 {
        return None;
    }
    let frames = (seen.len() - 1) as f64;
    let side = clip.width().min(clip.height()) as f64;
    let along = |axis: usize| -> Vec<(f64, f64)> {
        present
            .iter()
            .map(|(i, s)| (*i, s.centre[axis] / side))
            .collect()
    };
    let (x, y) = (along(0), along(1));
    // What is cut off at the edge seems to shrink and to turn.
    let whole: Vec<(f64, &Seen)> = present.iter().copied().filter(|(_, s)| !s.cut).collect();
    let whole = if whole.len() < LEAST_FRAMES {
        &present
    } else {
        &whole
    };
    let radius: Vec<(f64, f64)> = whole.iter().map(|(i, s)| (*i, 0.5 * s.area.ln())).collect();
    let (line_x, line_y) = (Line::through(&x)?, Line::through(&y)?);
    let swing = line_y.residual(&y);
    if swing > SWING && swing > 2.0 * line_x.residual(&x) && turns_back(&y) {
        return Some(Motion::Bouncing);
    }
    let travel = [line_x.slope * frames, line_y.slope * frames];
    let growth = Line::through(&radius)?.slope * frames;
    let turn = turn(whole);
    let candidates = [
        (travel[0].hypot(travel[1]) / TRAVEL, steady(travel)),
        (growth / GROWTH, Motion::Growing),
        (-growth / GROWTH, Motion::Shrinking),
        (turn.abs() / TURN, Motion::Rotating),
    ];
    let (strength, motion) = candidates.into_iter().max_by(|a, b| a.0.total_cmp(&b.0))?;
    (strength > 1.0).then_some(motion)
}

/// Whether something goes to and fro, rather than one way at changing speed.
fn turns_back(track: &[(f64, f64)]) -> bool {
    let way: f64 = track
        .windows(2)
        .map(|pair| (pair[1].1 - pair[0].1).abs())
        .sum();
    let highest = track.iter().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max);
    let lowest = track.iter().map(|p| p.1).fold(f64::INFINITY, f64::min);
    way > 1.4 * (highest - lowest)
}

/// The nearest of eight directions.
fn steady(travel: [f64; 2]) -> Motion {
    const AROUND: [Motion; 8] = [
        Motion::Right,
        Motion::DownRight,
        Motion::Down,
        Motion::DownLeft,
        Motion::Left,
        Motion::UpLeft,
        Motion::Up,
        Motion::UpRight,
    ];
    let eighth = (travel[1].atan2(travel[0]) / (TAU / 8.0)).round();
    AROUND[eighth.rem_euclid(8.0) as usize % 8]
}

/// Radians that the outline turns, by the wave that is strongest in it. 0 for a round one.
fn turn(whole: &[(f64, &Seen)]) -> f64 {
    let profiles: Vec<&Profile> = whole
        .iter()
        .filter_map(|(_, s)| s.profile.as_ref())
        .collect();
    let strength = |wave: usize| profiles.iter().map(|p| p.strength(wave)).sum::<f64>();
    let wave = (1..6)
        .max_by(|a, b| strength(*a).total_cmp(&strength(*b)))
        .unwrap_or(1);
    if strength(wave) < 0.04 * profiles.len() as f64 {
        return 0.0;
    }
    let phases = profiles
        .iter()
        .map(|p| p.waves[wave][1].atan2(p.waves[wave][0]));
    let phases: Vec<f64> = phases.collect();
    let steps = phases.windows(2).map(|pair| {
        let step = pair[1] - pair[0];
        step - TAU * (step / TAU).round()
    });
    steps.sum::<f64>() / wave as f64
}
