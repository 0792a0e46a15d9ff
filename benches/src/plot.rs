//! Line charts as SVG, as few of its elements as it takes.

use std::fmt::Write;

/// Lines over time.
#[derive(Debug)]
pub struct Chart<'a> {
    /// What stands above it.
    pub title: &'a str,
    /// The last point in time, in seconds; the first is 0.
    pub seconds: f64,
    /// A stretch of time that is shaded, and what it is.
    pub band: (f64, f64, &'a str),
    /// What the values are.
    pub unit: &'a str,
    /// The values at which there are lines to read by, in rising order; the first and the last are the ends of the axis.
    pub ticks: &'a [f64],
    /// Whether each tenfold has the same height.
    pub log: bool,
    /// What is drawn, the last one on top.
    pub lines: Vec<Line>,
}

/// One of them.
#[derive(Debug)]
pub struct Line {
    /// What the legend calls it.
    pub name: String,
    /// A colour of SVG.
    pub colour: &'static str,
    /// Whether it is dashed.
    pub dashed: bool,
    /// Seconds and values; those outside of the axis are drawn at its ends.
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 1060.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 700.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 370.0;

impl Chart<'_> {
    /// The file.
    pub fn svg(&self) -> String {
        let mut out = String::new();
        // Writing to a `String` does not fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>"
        )?;
        text(out, LEFT, 24.0, "start", &format!("<tspan font-size=\"15\">{}</tspan>", escape(self.title)))?;
        let (from, to, what) = self.band;
        let (from, to) = (self.x(from), self.x(to));
        writeln!(
            out,
            "<rect x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{}\" fill=\"#f3ece0\"/>",
            to - from,
            BOTTOM - TOP
        )?;
        text(out, f64::midpoint(from, to), TOP - 6.0, "middle", &escape(what))?;
        for tick in self.ticks {
            let y = self.y(*tick);
            writeln!(out, "<path d=\"M{LEFT} {y:.1}H{RIGHT}\" stroke=\"#ccc\"/>")?;
            text(out, LEFT - 6.0, y + 4.0, "end", &tick.to_string())?;
        }
        text(out, 10.0, TOP - 6.0, "start", &escape(self.unit))?;
        for half in 0..=(self.seconds * 2.0) as u32 {
            let second = f64::from(half) / 2.0;
            text(out, self.x(second), BOTTOM + 18.0, "middle", &second.to_string())?;
        }
        text(out, f64::midpoint(LEFT, RIGHT), BOTTOM + 36.0, "middle", "seconds")?;
        for (index, line) in self.lines.iter().enumerate() {
            let dash = if line.dashed { " stroke-dasharray=\"6 4\"" } else { "" };
            let style = format!("fill=\"none\" stroke=\"{}\" stroke-width=\"2\"{dash}", line.colour);
            let points: Vec<String> =
                line.points.iter().map(|(x, y)| format!("{:.1},{:.1}", self.x(*x), self.y(*y))).collect();
            writeln!(out, "<polyline {style} points=\"{}\"/>", points.join(" "))?;
            let y = TOP + 10.0 + 22.0 * index as f64;
            writeln!(out, "<path {style} d=\"M{} {y}h28\"/>", RIGHT + 16.0)?;
            text(out, RIGHT + 52.0, y + 4.0, "start", &escape(&line.name))?;
        }
        writeln!(out, "</svg>")
    }

    fn x(&self, seconds: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * (seconds / self.seconds).clamp(0.0, 1.0)
    }

    fn y(&self, value: f64) -> f64 {
        let scale = |value: f64| if self.log { value.ln() } else { value };
        let (Some(least), Some(most)) = (self.ticks.first(), self.ticks.last()) else { return BOTTOM };
        let share = (scale(value.clamp(*least, *most)) - scale(*least)) / (scale(*most) - scale(*least));
        BOTTOM - (BOTTOM - TOP) * share
    }
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, content: &str) -> std::fmt::Result {
    writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{content}</text>")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(log: bool) -> Chart<'static> {
        let points = vec![(0.0, 1.0), (1.0, 10.0), (2.0, 500.0)];
        let line = Line { name: "a < b".to_owned(), colour: "red", dashed: true, points };
        let band = (0.5, 1.5, "bad & worse");
        Chart { title: "t", seconds: 2.0, band, unit: "ms", ticks: &[1.0, 10.0, 100.0], log, lines: vec![line] }
    }

    #[test]
    fn points_stand_where_the_axes_say() {
        for (log, middle) in [(true, "385.0,210.0"), (false, "385.0,340.9")] {
            let svg = chart(log).svg();
            let points = format!("points=\"70.0,370.0 {middle} 700.0,50.0\"");
            assert!(svg.contains(&points), "{points}: {svg}");
        }
    }

    #[test]
    fn what_means_something_in_xml_is_escaped() {
        let svg = chart(true).svg();
        assert!(svg.contains(">a &lt; b<") && svg.contains(">bad &amp; worse<"), "{svg}");
    }
}
