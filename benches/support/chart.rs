//! Lines over logarithmic axes, as SVG text that is readable on light and on dark pages.

use std::fmt::Write as _;

pub struct Series {
    pub name: &'static str,
    /// One for each size.
    pub values: Vec<f64>,
}

/// One pair of axes.
pub struct Panel {
    pub title: &'static str,
    pub series: Vec<Series>,
}

const WIDTH: f64 = 900.0;
const LEFT: f64 = 80.0;
/// Lines end here; their names stand behind.
const RIGHT: f64 = 620.0;
const PANEL: f64 = 330.0;
const HEAD: f64 = 60.0;
const NAME: f64 = 15.0;
/// Distinct for most eyes, and on white as on black (after Okabe and Ito).
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56a0d3", "#888888"];

pub fn svg(title: &str, below: &str, sizes: &[f64], panels: &[Panel]) -> String {
    let height = HEAD + (PANEL + 90.0) * panels.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"13\" role=\"img\" aria-label=\"{title}\">\n\
         <style>\n\
         text {{ fill: #222 }} .axis {{ stroke: #999 }} .grid {{ stroke: #ddd }}\n\
         @media (prefers-color-scheme: dark) {{ text {{ fill: #ddd }} .axis {{ stroke: #777 }} .grid {{ stroke: #444 }} }}\n\
         .line {{ fill: none; stroke-width: 2 }}\n\
         </style>\n\
         <text x=\"{LEFT}\" y=\"28\" font-size=\"18\">{title}</text>\n"
    );
    for (number, panel) in panels.iter().enumerate() {
        let top = HEAD + (PANEL + 90.0) * number as f64 + 20.0;
        draw(&mut out, panel, sizes, top, below);
    }
    out.push_str("</svg>\n");
    out
}

/// Whole powers of ten around all values.
fn decades<'a>(values: impl Iterator<Item = &'a f64> + Clone) -> (i32, i32) {
    let least = values.clone().copied().fold(f64::INFINITY, f64::min).max(1e-9);
    let most = values.copied().fold(least, f64::max);
    let (low, high) = (least.log10().floor() as i32, most.log10().ceil() as i32);
    (low, high.max(low + 1))
}

fn draw(out: &mut String, panel: &Panel, sizes: &[f64], top: f64, below: &str) {
    let bottom = top + PANEL;
    let (left, right) = decades(sizes.iter());
    let (low, high) = decades(panel.series.iter().flat_map(|series| &series.values));
    let x = |size: f64| LEFT + (RIGHT - LEFT) * (size.log10() - f64::from(left)) / f64::from(right - left);
    let y = |value: f64| bottom - PANEL * (value.max(1e-9).log10() - f64::from(low)) / f64::from(high - low);
    let mut line = |text: String| out.push_str(&(text + "\n"));

    line(format!("<text x=\"{LEFT}\" y=\"{:.1}\">{}</text>", top - 10.0, panel.title));
    for power in low..=high {
        let at = y(10_f64.powi(power));
        line(format!("<line class=\"grid\" x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{RIGHT}\" y2=\"{at:.1}\"/>"));
        line(format!("<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>", LEFT - 8.0, at + 4.0, word(power)));
    }
    for power in left..=right {
        let at = x(10_f64.powi(power));
        line(format!("<line class=\"grid\" x1=\"{at:.1}\" y1=\"{top:.1}\" x2=\"{at:.1}\" y2=\"{bottom:.1}\"/>"));
        let under = bottom + 20.0;
        line(format!("<text x=\"{at:.1}\" y=\"{under:.1}\" text-anchor=\"middle\">{}</text>", word(power)));
    }
    line(format!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{below}</text>",
        f64::midpoint(LEFT, RIGHT),
        bottom + 40.0
    ));
    line(format!("<path class=\"axis\" fill=\"none\" d=\"M{LEFT} {top:.1}V{bottom:.1}H{RIGHT}\"/>"));

    let names = spread(panel.series.iter().map(|series| y(*series.values.last().unwrap_or(&1.0))).collect(), bottom);
    for (number, (series, name_at)) in panel.series.iter().zip(names).enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        // A second round through the colours is dashed.
        let dashes = if number < COLOURS.len() { "" } else { " stroke-dasharray=\"6 4\"" };
        let points: Vec<_> = sizes.iter().zip(&series.values).map(|(size, value)| (x(*size), y(*value))).collect();
        let path: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        line(format!("<polyline class=\"line\" stroke=\"{colour}\"{dashes} points=\"{}\"/>", path.join(" ")));
        for (x, y) in &points {
            line(format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"));
        }
        let (end_x, end_y) = points.last().copied().unwrap_or((RIGHT, bottom));
        let name_x = RIGHT + 24.0;
        line(format!(
            "<line stroke=\"{colour}\"{dashes} x1=\"{end_x:.1}\" y1=\"{end_y:.1}\" x2=\"{name_x:.1}\" y2=\"{name_at:.1}\"/>"
        ));
        line(format!(
            "<text x=\"{:.1}\" y=\"{:.1}\">{}: {}</text>",
            name_x + 4.0,
            name_at + 4.0,
            series.name,
            figure(*series.values.last().unwrap_or(&0.0))
        ));
    }
}

/// Where names stand so that none covers another, close to where their lines end.
fn spread(ends: Vec<f64>, bottom: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..ends.len()).collect();
    order.sort_by(|one, other| ends[*one].total_cmp(&ends[*other]));
    let mut placed = ends;
    // From the lowest upwards, and then down again where that went too far up.
    let mut limit = bottom;
    for index in order.iter().rev() {
        placed[*index] = placed[*index].min(limit);
        limit = placed[*index] - NAME;
    }
    placed
}

fn word(power: i32) -> String {
    match power {
        -9..0 => format!("{:.*}", power.unsigned_abs() as usize, 10_f64.powi(power)),
        0..=2 => format!("{:.0}", 10_f64.powi(power)),
        3..=5 => format!("{:.0} k", 10_f64.powi(power - 3)),
        _ => format!("{:.0} M", 10_f64.powi(power - 6)),
    }
}

fn figure(value: f64) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = match value {
        value if value < 10.0 => write!(text, "{value:.2}"),
        value if value < 10_000.0 => write!(text, "{value:.0}"),
        value => write!(text, "{:.0} k", value / 1000.0),
    };
    text
}
