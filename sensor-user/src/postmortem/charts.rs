//! The charts of a postmortem: one line chart per curve, as SVG within the page.

use std::fmt::Write as _;

use super::{
    report::{Curve, Report},
    text::html,
};
use crate::history::times;

const WIDTH: f64 = 880.0;
const HEIGHT: f64 = 120.0;
/// Room for the labels of an axis.
const LEFT: f64 = 70.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 20.0;
/// A longer distance between two points is a gap.
const GAP_NS: i64 = 30_000_000_000;

/// All charts on one axis of time; the incident is shaded.
pub fn svg(report: &Report) -> String {
    let times = || report.curves.iter().flat_map(|curve| &curve.points).map(|(at, _)| *at);
    let (Some(from), Some(to)) = (times().min(), times().max()) else { return String::new() };
    let curves = report.curves.iter().filter(|curve| !curve.points.is_empty());
    curves.map(|curve| chart(curve, report, (from, to.max(from + 1)))).collect()
}

fn chart(curve: &Curve, report: &Report, (from, to): (i64, i64)) -> String {
    let largest = curve.points.iter().map(|(_, value)| *value).fold(0.0, f64::max).max(1e-9);
    let x = |at: i64| LEFT + (at - from) as f64 / (to - from) as f64 * (WIDTH - LEFT);
    let y = |value: f64| TOP + (1.0 - value / largest) * (HEIGHT - TOP - BOTTOM);
    let (begin, end) = (x(report.begin.clamp(from, to)), x(report.end.clamp(from, to)));
    let mut out = format!(
        "<svg role=\"img\" width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-size=\"11\" fill=\"#444\">\n<rect x=\"{begin:.1}\" y=\"{TOP}\" width=\"{:.1}\" \
         height=\"{:.1}\" fill=\"#fde8e8\"/>\n",
        (end - begin).max(1.0),
        HEIGHT - TOP - BOTTOM
    );
    let title = html(&curve.title.plain());
    let _ = writeln!(out, "<text x=\"{LEFT}\" y=\"13\">{title} ({})</text>", curve.unit);
    for (value, at) in [(largest, y(largest)), (0.0, y(0.0))] {
        let at = at + 4.0;
        let right = LEFT - 6.0;
        let _ = writeln!(
            out,
            "<text x=\"{right}\" y=\"{at:.1}\" text-anchor=\"end\">{value:.0}</text>"
        );
    }
    for (at, anchor) in [(from, "start"), (to, "end")] {
        let (x, bottom, time) = (x(at), HEIGHT - 5.0, times::text(at));
        let _ = writeln!(
            out,
            "<text x=\"{x:.1}\" y=\"{bottom}\" text-anchor=\"{anchor}\">{time}</text>"
        );
    }
    let mut path = String::new();
    let mut last: Option<i64> = None;
    for (at, value) in &curve.points {
        let is_apart = last.is_none_or(|last| at - last > GAP_NS);
        let step = if is_apart { 'M' } else { 'L' };
        let _ = write!(path, "{step}{:.1} {:.1}", x(*at), y(*value));
        last = Some(*at);
    }
    let _ = writeln!(out, "<path d=\"{path}\" fill=\"none\" stroke=\"#1f6feb\"/>\n</svg>");
    out
}
