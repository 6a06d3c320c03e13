//! Numbers as people read them: three significant digits, with the unit's multiple.

/// A value with its unit.
pub fn value(value: f64, unit: &str) -> String {
    match unit {
        "1/s" => scaled(
            value,
            &[("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9)],
            "/s",
        ),
        "bit/s" => scaled(
            value,
            &[("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9)],
            "bit/s",
        ),
        "µs" => scaled(value, &[("µs", 1.0), ("ms", 1e3), ("s", 1e6)], ""),
        "ms" => scaled(value, &[("ms", 1.0), ("s", 1e3)], ""),
        "KiB" => scaled(
            value,
            &[("KiB", 1.0), ("MiB", 1024.0), ("GiB", 1_048_576.0)],
            "",
        ),
        "" => digits(value),
        "×" => format!("{} ×", digits(value)),
        _ => format!("{} {unit}", digits(value)),
    }
}

/// Seconds of the machine per million are microseconds for one.
pub fn ratio(value: f64) -> String {
    format!("{} ×", digits(value))
}

fn scaled(value: f64, steps: &[(&str, f64)], unit: &str) -> String {
    let step = steps
        .iter()
        .rev()
        .find(|(_, factor)| value.abs() >= *factor)
        .or(steps.first());
    match step {
        Some((prefix, factor)) => format!("{} {prefix}{unit}", digits(value / factor)),
        None => digits(value),
    }
}

/// Three significant digits, and no more zeroes than that.
pub fn digits(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return format!("{value}");
    }
    let magnitude = value.abs().log10().floor() as i32;
    let decimals = (2 - magnitude).clamp(0, 6) as usize;
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits() {
        assert_eq!(value(812_345.0, "1/s"), "812 k/s");
        assert_eq!(value(1_250_000.0, "1/s"), "1.25 M/s");
        assert_eq!(value(4.5, "µs"), "4.50 µs");
        assert_eq!(value(2879.5, "µs"), "2.88 ms");
        assert_eq!(value(0.0123, ""), "0.0123");
        assert_eq!(value(61_120.0, "KiB"), "59.7 MiB");
        assert_eq!(ratio(0.9), "0.900 ×");
        assert_eq!(value(0.0, ""), "0");
    }
}
