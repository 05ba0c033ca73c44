//! How do figures look beside each other? Groups of bars, drawn as SVG.

/// One contestant: its name, and its bar in each group; none where it was not measured.
#[derive(Debug, Clone)]
pub struct Series {
    pub name: String,
    pub values: Vec<Option<u64>>,
}

const WIDTH: usize = 960;
const HEIGHT: usize = 460;
const LEFT: usize = 90;
const TOP: usize = 60;
const BOTTOM: usize = 390;
/// Told apart by those who see fewer colours, too (after Okabe and Ito).
const COLOURS: [&str; 6] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"];

/// A chart of one kind of figure, `unit`, over `groups`.
pub fn bars(title: &str, unit: &str, groups: &[String], series: &[Series]) -> String {
    let highest = series.iter().flat_map(|one| &one.values).flatten().max();
    let top = round_up(highest.copied().unwrap_or(1).max(1));
    let scale = |value: u64| {
        let pixels = u128::from(value) * u128::try_from(BOTTOM - TOP).unwrap_or(0) / u128::from(top);
        usize::try_from(pixels).unwrap_or(0)
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <title>{title}</title>\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"16\">{title}</text>\n<text x=\"{LEFT}\" y=\"44\" fill=\"#555\">{unit}</text>\n",
        title = escaped(title),
        unit = escaped(unit),
    );
    for line in 0..=4_u64 {
        let value = top / 4 * line;
        let y = BOTTOM - scale(value);
        svg.push_str(&format!(
            "<line x1=\"{LEFT}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\" stroke=\"#ddd\"/>\n<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n",
            WIDTH - 20,
            LEFT - 8,
            y + 4,
            crate::report::thousands(value),
        ));
    }
    let group_width = (WIDTH - LEFT - 20) / groups.len().max(1);
    let bar = (group_width * 4 / 5) / series.len().max(1);
    for (g, group) in groups.iter().enumerate() {
        let x = LEFT + g * group_width + group_width / 10;
        for (s, one) in series.iter().enumerate() {
            let Some(value) = one.values.get(g).copied().flatten() else {
                continue;
            };
            let height = scale(value);
            let (x, y) = (x + s * bar, BOTTOM - height);
            svg.push_str(&format!(
                "<rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{height}\" fill=\"{}\"/>\n\
                 <text x=\"{}\" y=\"{}\" font-size=\"10\" text-anchor=\"middle\">{}</text>\n",
                bar.saturating_sub(2),
                COLOURS[s % COLOURS.len()],
                x + bar / 2,
                y - 4,
                crate::report::thousands(value),
            ));
        }
        svg.push_str(&format!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
            LEFT + g * group_width + group_width / 2,
            BOTTOM + 20,
            escaped(group),
        ));
    }
    for (s, one) in series.iter().enumerate() {
        let (x, y) = (LEFT + s % 3 * 290, BOTTOM + 34 + s / 3 * 20);
        svg.push_str(&format!(
            "<rect x=\"{x}\" y=\"{y}\" width=\"12\" height=\"12\" fill=\"{}\"/>\n<text x=\"{}\" y=\"{}\">{}</text>\n",
            COLOURS[s % COLOURS.len()],
            x + 18,
            y + 11,
            escaped(&one.name),
        ));
    }
    svg.push_str("</svg>\n");
    svg
}

/// The next number that a quarter of reads well.
fn round_up(value: u64) -> u64 {
    let mut step = 4;
    while step * 25 < value {
        step *= 10;
    }
    value.div_ceil(step) * step
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_bar_fits_and_what_was_not_measured_has_none() {
        let series = [
            Series {
                name: "a <b>".to_owned(),
                values: vec![Some(100), None],
            },
            Series {
                name: "c".to_owned(),
                values: vec![Some(50), Some(0)],
            },
        ];
        let svg = bars("t", "u", &["1".to_owned(), "2".to_owned()], &series);
        // The ground, two legends and three bars.
        assert_eq!(svg.matches("<rect").count(), 6);
        assert!(svg.contains("a &lt;b&gt;"));
        assert!(svg.contains(&format!("height=\"{}\"", BOTTOM - TOP)), "{svg}");
    }

    #[test]
    fn the_scale_ends_at_a_round_number_above() {
        assert_eq!([1, 100, 101, 41_234].map(round_up), [4, 100, 120, 44_000]);
    }
}
