//! Just enough SVG: shapes and text with classes that the page's style sheet knows.

use std::fmt::Write as _;

/// A drawing of a given size in its own units; the page scales it.
pub struct Svg {
    width: f64,
    height: f64,
    body: String,
}

/// Where a text's anchor is.
#[derive(Clone, Copy, Debug)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

impl Svg {
    pub fn new(width: f64, height: f64) -> Self {
        Self {
            width,
            height,
            body: String::new(),
        }
    }

    pub fn rect(&mut self, class: &str, x: f64, y: f64, width: f64, height: f64) {
        let _ = write!(
            self.body,
            r#"<rect class="{class}" x="{x:.1}" y="{y:.1}" width="{:.1}" height="{height:.1}"/>"#,
            width.max(0.0)
        );
    }

    pub fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let _ = write!(
            self.body,
            r#"<line class="{class}" x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}"/>"#,
            from.0, from.1, to.0, to.1
        );
    }

    /// A point with a text that shows when it is pointed at.
    pub fn dot(&mut self, class: &str, x: f64, y: f64, radius: f64, title: &str) {
        let _ = write!(
            self.body,
            r#"<circle class="{class}" cx="{x:.1}" cy="{y:.1}" r="{radius:.1}"><title>{}</title></circle>"#,
            escape(title)
        );
    }

    pub fn path(&mut self, class: &str, points: &[(f64, f64)]) {
        self.points("polyline", class, points);
    }

    pub fn area(&mut self, class: &str, points: &[(f64, f64)]) {
        self.points("polygon", class, points);
    }

    fn points(&mut self, element: &str, class: &str, points: &[(f64, f64)]) {
        let _ = write!(self.body, r#"<{element} class="{class}" points=""#);
        for (x, y) in points {
            let _ = write!(self.body, "{x:.1},{y:.1} ");
        }
        self.body.push_str(r#""/>"#);
    }

    pub fn text(&mut self, class: &str, at: (f64, f64), anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let _ = write!(
            self.body,
            r#"<text class="{class}" x="{:.1}" y="{:.1}" text-anchor="{anchor}">{}</text>"#,
            at.0,
            at.1,
            escape(text)
        );
    }

    /// The element, described by `label` for those who do not see it.
    pub fn finish(self, label: &str) -> String {
        format!(
            r#"<svg viewBox="0 0 {:.0} {:.0}" role="img" aria-label="{}">{}</svg>"#,
            self.width,
            self.height,
            escape(label),
            self.body
        )
    }
}

/// Text as HTML and SVG take it, in quotation marks too.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// More are no help, whatever the values.
const MOST_TICKS: usize = 20;

/// A scale from values to places.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    from: f64,
    to: f64,
    low: f64,
    high: f64,
    log: bool,
}

impl Scale {
    pub fn linear((from, to): (f64, f64), (low, high): (f64, f64)) -> Self {
        Self {
            from,
            to,
            low,
            high,
            log: false,
        }
    }

    /// Of positive values.
    pub fn log((from, to): (f64, f64), (low, high): (f64, f64)) -> Self {
        Self {
            from: from.log10(),
            to: to.log10(),
            low,
            high,
            log: true,
        }
    }

    pub fn place(&self, value: f64) -> f64 {
        let value = if self.log { value.log10() } else { value };
        let width = self.to - self.from;
        let share = if width == 0.0 {
            0.5
        } else {
            (value - self.from) / width
        };
        self.low + share.clamp(0.0, 1.0) * (self.high - self.low)
    }

    /// Round values to label: powers of ten, or a handful of even steps.
    pub fn ticks(&self) -> Vec<f64> {
        if self.log {
            return (self.from.ceil() as i32..=self.to.floor() as i32)
                .take(MOST_TICKS)
                .map(|power| 10f64.powi(power))
                .collect();
        }
        let step = nice((self.to - self.from) / 5.0);
        let mut ticks = Vec::new();
        let mut tick = (self.from / step).ceil() * step;
        while tick <= self.to + step * 1e-6 && ticks.len() < MOST_TICKS {
            ticks.push(tick);
            tick += step;
        }
        ticks
    }
}

/// One, two or five times a power of ten, not below.
fn nice(step: f64) -> f64 {
    if step <= 0.0 || !step.is_finite() {
        return 1.0;
    }
    let power = 10f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .find(|factor| factor * power >= step * 0.999)
        .unwrap_or(10.0);
    factor * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_place_and_tick() {
        let linear = Scale::linear((0.0, 830.0), (100.0, 200.0));
        assert_eq!(linear.place(0.0), 100.0);
        assert_eq!(linear.place(415.0), 150.0);
        assert_eq!(linear.place(9999.0), 200.0, "nothing leaves the plot");
        assert_eq!(linear.ticks(), [0.0, 200.0, 400.0, 600.0, 800.0]);
        let log = Scale::log((2.0, 20_000.0), (0.0, 4.0));
        assert_eq!(log.place(200.0), 2.0);
        assert_eq!(log.ticks(), [10.0, 100.0, 1000.0, 10_000.0]);
        let flat = Scale::linear((3.0, 3.0), (0.0, 10.0));
        assert_eq!(flat.place(3.0), 5.0);
    }

    #[test]
    fn text_cannot_become_markup() {
        let mut svg = Svg::new(10.0, 10.0);
        svg.text("x", (1.0, 1.0), Anchor::Start, "<a & \"b\">");
        let text = svg.finish("a \"label\"");
        assert!(text.contains("&lt;a &amp; &quot;b&quot;&gt;"));
        assert!(text.contains("a &quot;label&quot;"));
    }
}
