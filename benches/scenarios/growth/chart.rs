//! Drawings with two logarithmic axes, as SVG that needs nothing else and reads on light and dark ground.

use std::fmt::Write;

use crate::figures;

/// A drawing.
pub struct Chart {
    pub title: String,
    pub x: String,
    pub y: String,
    pub lines: Vec<Line>,
}

/// Points that belong together, from left to right, all above zero.
pub struct Line {
    pub label: String,
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 440.0;
/// Around the field and its legend: left, above, right, below.
const MARGIN: (f64, f64, f64, f64) = (80.0, 40.0, 24.0, 56.0);
/// The height of a line of the legend, above the field.
const LEGEND: f64 = 18.0;
const COLOURS: [&str; 5] = ["#0b7285", "#c2255c", "#5f3dc4", "#e67700", "#495057"];
const STYLE: &str = "<style>text{font:13px system-ui,sans-serif;fill:#343a40}.grid{stroke:#ced4da;stroke-width:1}\
    .t{font-weight:600;font-size:15px}</style>";

/// A logarithmic axis: values from and to, pixels from and to.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn at(&self, value: f64) -> f64 {
        let part = (value / self.low).ln() / (self.high / self.low).ln();
        self.from + part * (self.to - self.from)
    }
}

impl Chart {
    pub fn to_svg(&self) -> String {
        let (left, above, right, bottom) = MARGIN;
        let top = above + LEGEND * self.lines.len() as f64;
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let (low, high) = range(points().map(|(x, _)| *x));
        let x = Axis { low, high, from: left, to: WIDTH - right };
        let (low, high) = range(points().map(|(_, y)| *y));
        let (ticks, low, high) = ticks(low, high);
        let y = Axis { low, high, from: HEIGHT - bottom, to: top };
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\">{STYLE}\
             <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
        );
        let middle = (left + WIDTH - right) / 2.0;
        text(&mut svg, middle, 24.0, "middle\" class=\"t", &self.title);
        text(&mut svg, middle, HEIGHT - 14.0, "middle", &self.x);
        let (centre, turned) = ((top + HEIGHT - bottom) / 2.0, "middle\" transform=\"rotate(-90 18 CENTRE)");
        text(&mut svg, 18.0, centre, &turned.replace("CENTRE", &centre.to_string()), &self.y);
        let mut places: Vec<_> = points().map(|(x, _)| *x).collect();
        places.sort_by(f64::total_cmp);
        places.dedup();
        for value in places {
            grid(&mut svg, (x.at(value), top), (x.at(value), HEIGHT - bottom));
            text(&mut svg, x.at(value), HEIGHT - bottom + 18.0, "middle", &short(value));
        }
        for value in ticks {
            grid(&mut svg, (left, y.at(value)), (WIDTH - right, y.at(value)));
            text(&mut svg, left - 8.0, y.at(value) + 4.0, "end", &short(value));
        }
        for (index, line) in self.lines.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            let path: String =
                line.points.iter().map(|(a, b)| format!("{:.1},{:.1} ", x.at(*a), y.at(*b))).collect();
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                path.trim_end()
            );
            for (a, b) in &line.points {
                let (cx, cy) = (x.at(*a), y.at(*b));
                let _ = writeln!(svg, "<circle cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"3.5\" fill=\"{colour}\"/>");
            }
            let height = above + LEGEND * (index as f64 + 0.5);
            text(&mut svg, left, height, &format!("start\" style=\"fill:{colour}"), &line.label);
        }
        svg + "</svg>\n"
    }
}

/// The least and the most, apart from each other.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) =
        values.fold((f64::MAX, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
    if high > low * 1.01 { (low, high) } else { (low / 2.0, high * 2.0) }
}

/// Round numbers from at most the least to at least the most: decades, and 2 and 5 if those are few.
fn ticks(low: f64, high: f64) -> (Vec<f64>, f64, f64) {
    let steps: &[f64] = if high / low > 1e4 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let decades = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let all: Vec<_> = decades.flat_map(|decade| steps.iter().map(move |s| s * 10_f64.powi(decade))).collect();
    let first = all.iter().rposition(|tick| *tick <= low).unwrap_or(0);
    let last = all.iter().position(|tick| *tick >= high).unwrap_or(all.len() - 1);
    (all[first..=last].to_vec(), all[first], all[last])
}

fn short(value: f64) -> String {
    let (value, unit) = match value {
        1e9.. => (value / 1e9, " G"),
        1e6.. => (value / 1e6, " M"),
        1e4.. => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let text = if value < 1.0 { format!("{value:.6}") } else { figures::digits(value) };
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

fn grid(svg: &mut String, from: (f64, f64), to: (f64, f64)) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _ =
        writeln!(svg, "<line class=\"grid\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>");
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
}
