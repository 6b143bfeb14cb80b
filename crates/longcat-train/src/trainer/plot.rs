//! The loss plot as SVG.

use std::fmt::Write;

use super::metrics::Metric;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const BOTTOM: f64 = 40.0;
const TOP: f64 = 20.0;
const RIGHT: f64 = 20.0;
/// Points that a line is thinned to.
const POINTS: usize = 2000;

/// Training loss (pale), its running mean, and validation loss over the steps, on a logarithmic
/// axis.
pub(super) fn plot(lines: &[Metric]) -> String {
    let mut training = Vec::new();
    let mut validation = Vec::new();
    for line in lines {
        match line {
            Metric::Step { step, loss, .. } => training.push((*step as f64, *loss)),
            Metric::Validation {
                step,
                validation_loss,
                ..
            } => validation.push((*step as f64, *validation_loss)),
        }
    }
    let smooth = running_mean(&training);
    let axes = Axes::around(training.iter().chain(&validation));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    axes.draw(&mut svg);
    for (points, colour, width) in [
        (&training, "#b8cde0", 1.0),
        (&smooth, "#1f5f99", 2.0),
        (&validation, "#c0392b", 2.0),
    ] {
        axes.line(&mut svg, points, colour, width);
    }
    for (i, (name, colour)) in [("training", "#1f5f99"), ("validation", "#c0392b")]
        .iter()
        .enumerate()
    {
        let y = TOP + 16.0 + 16.0 * i as f64;
        let x = WIDTH - RIGHT - 80.0;
        let _ = writeln!(
            svg,
            "<text x=\"{x}\" y=\"{y}\" fill=\"{colour}\">{name}</text>"
        );
    }
    svg + "</svg>\n"
}

/// Exponential running mean over about a fiftieth of the points.
fn running_mean(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let share = (50.0 / points.len().max(1) as f64).clamp(0.01, 0.5);
    let mut mean = points.first().map_or(0.0, |p| p.1);
    points
        .iter()
        .map(|(x, y)| {
            mean += share * (y - mean);
            (*x, mean)
        })
        .collect()
}

struct Axes {
    steps: [f64; 2],
    /// Logarithms to base 10.
    losses: [f64; 2],
}

impl Axes {
    fn around<'a>(points: impl Iterator<Item = &'a (f64, f64)>) -> Self {
        let mut axes = Self {
            steps: [0.0, 1.0],
            losses: [f64::INFINITY, f64::NEG_INFINITY],
        };
        for (step, loss) in points.filter(|p| p.1 > 0.0 && p.1.is_finite()) {
            axes.steps[1] = axes.steps[1].max(*step);
            axes.losses[0] = axes.losses[0].min(loss.log10());
            axes.losses[1] = axes.losses[1].max(loss.log10());
        }
        if axes.losses[0] > axes.losses[1] {
            axes.losses = [-1.0, 0.0];
        }
        let margin = 0.05 * (axes.losses[1] - axes.losses[0]).max(0.1);
        axes.losses = [axes.losses[0] - margin, axes.losses[1] + margin];
        axes
    }

    fn x(&self, step: f64) -> f64 {
        let [low, high] = self.steps;
        LEFT + (step - low) / (high - low) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, log: f64) -> f64 {
        let [low, high] = self.losses;
        HEIGHT - BOTTOM - (log - low) / (high - low) * (HEIGHT - BOTTOM - TOP)
    }

    fn draw(&self, svg: &mut String) {
        for i in 0..=5 {
            let share = f64::from(i) / 5.0;
            let step = self.steps[0] + share * (self.steps[1] - self.steps[0]);
            let log = self.losses[0] + share * (self.losses[1] - self.losses[0]);
            let (x, y) = (self.x(step), self.y(log));
            let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
            let _ = write!(
                svg,
                "<path d=\"M{x:.1} {TOP}V{bottom} M{LEFT} {y:.1}H{right}\" stroke=\"#e4e4e4\"/>\n\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{step:.0}</text>\n\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{:.3e}</text>\n",
                bottom + 18.0,
                LEFT - 6.0,
                y + 4.0,
                10f64.powf(log),
            );
        }
    }

    fn line(&self, svg: &mut String, points: &[(f64, f64)], colour: &str, width: f64) {
        let every = points.len().div_ceil(POINTS).max(1);
        let drawn = points.iter().filter(|p| p.1 > 0.0 && p.1.is_finite());
        let mut path = String::new();
        for (i, (step, loss)) in drawn.step_by(every).enumerate() {
            let command = if i == 0 { 'M' } else { 'L' };
            let (x, y) = (self.x(*step), self.y(loss.log10()));
            let _ = write!(path, "{command}{x:.1} {y:.1}");
        }
        if !path.is_empty() {
            let _ = writeln!(
                svg,
                "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"/>"
            );
        }
    }
}
