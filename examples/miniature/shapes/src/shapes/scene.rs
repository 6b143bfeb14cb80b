//! What moves where, as a function of time.

use std::f64::consts::TAU;

use serde::{Deserialize, Serialize};

use crate::shapes::outline::Outline;
use crate::{Background, Colour, Motion, Shape, Size};

/// One or two objects before a background.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scene {
    /// The colour behind the objects.
    pub background: Background,
    /// The objects; a later one covers an earlier one.
    pub objects: Vec<Object>,
}

/// A shape that moves. Lengths are in sides of the square frame, y points down, times are in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Object {
    /// What it looks like.
    pub shape: Shape,
    /// Its colour.
    pub colour: Colour,
    /// How large it is at time 0.
    pub size: Size,
    /// What it does.
    pub motion: Motion,
    /// Its middle at time 0, as x and y; for a bouncing object, the lowest point of its middle.
    pub centre: [f64; 2],
    /// Radius at time 0 of a circle; other shapes of this radius look as large.
    pub radius: f64,
    /// Per second: sides along each moving axis, growth of the logarithm of the radius, radians
    /// of a rotation, or bounces.
    pub rate: f64,
    /// How high it bounces.
    pub height: f64,
    /// How much of a bounce or of a full turn lies before time 0, in [0, 1).
    pub phase: f64,
}

/// Where an object is at some time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pose {
    /// Its middle, as x and y in sides.
    pub centre: [f64; 2],
    /// Its radius in sides.
    pub radius: f64,
    /// Radians that it has turned clockwise.
    pub angle: f64,
}

impl Scene {
    /// The scene as it is `seconds` after its begin.
    ///
    /// Sizes and colours keep their names: an object that grows is still called small.
    #[must_use]
    pub fn later(mut self, seconds: f64) -> Self {
        for object in &mut self.objects {
            let pose = object.pose(seconds);
            match object.motion {
                Motion::Rotating => object.phase = (pose.angle / TAU).fract(),
                // Its middle stays the lowest point.
                Motion::Bouncing => object.phase = (object.phase + object.rate * seconds).fract(),
                _ => (object.centre, object.radius) = (pose.centre, pose.radius),
            }
        }
        self
    }
}

impl Object {
    /// Where it is `time` seconds after the clip begins. Motions never end: what moves steadily
    /// leaves the frame sooner or later.
    pub fn pose(&self, time: f64) -> Pose {
        let mut pose = Pose {
            centre: self.centre,
            radius: self.radius,
            angle: 0.0,
        };
        match self.motion {
            Motion::Growing => pose.radius *= (self.rate * time).exp(),
            Motion::Shrinking => pose.radius *= (-self.rate * time).exp(),
            Motion::Rotating => pose.angle = TAU * self.phase + self.rate * time,
            Motion::Bouncing => {
                let part = (self.phase + self.rate * time).fract();
                pose.centre[1] -= self.height * 4.0 * part * (1.0 - part);
            }
            steady => {
                let direction = steady.direction().unwrap_or_default();
                for (place, step) in pose.centre.iter_mut().zip(direction) {
                    *place += step * self.rate * time;
                }
            }
        }
        pose
    }

    /// How far it reaches from its middle, in radii.
    pub(crate) fn reach(&self) -> f64 {
        Outline::of(self.shape).reach()
    }
}
