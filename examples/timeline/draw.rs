//! The drawing: three lanes, and time runs downwards.

use core::fmt::Write;

/// Who does it.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Lane {
    Process,
    Core,
    Device,
}

/// One step.
pub(crate) struct Row {
    pub(crate) lane: Lane,
    pub(crate) text: &'static str,
}

const LANES: [(Lane, &str); 3] =
    [(Lane::Process, "process"), (Lane::Core, "userptr"), (Lane::Device, "device")];

/// What lasts: the lane, the first and the last step, the colour, the words beside it.
const SPANS: [(Lane, &str, &str, &str); 3] = [
    (Lane::Process, "munmap begins", "munmap returns", "#d9822b"),
    (Lane::Core, "pages pinned", "pages unpinned", "#8a8a8a"),
    (Lane::Device, "a lease, a job: DMA", "last access, job done", "#2b7bd9"),
];

/// Whether the lane's span covers a step, and where.
fn span(rows: &[Row], lane: Lane) -> (usize, usize) {
    let at = |text| rows.iter().position(|row| row.text == text).unwrap_or(0);
    let span = SPANS.iter().find(|(of, ..)| *of == lane);
    span.map_or((0, 0), |(_, first, last, _)| (at(*first), at(*last)))
}

/// Columns of text; a bar where a span lasts.
pub(crate) fn text(rows: &[Row]) -> String {
    let mut out = String::new();
    for (_, name) in LANES {
        let _ = write!(out, "  {name:<36}");
    }
    for (at, row) in rows.iter().enumerate() {
        out = out.trim_end().to_owned() + "\n";
        for (lane, _) in LANES {
            let (first, last) = span(rows, lane);
            let bar = if (first..=last).contains(&at) { '┃' } else { ' ' };
            let text = if row.lane == lane { row.text } else { "" };
            let _ = write!(out, "{bar} {text:<36}");
        }
    }
    out.trim_end().to_owned() + "\n"
}

const WIDTH: usize = 250;
const STEP: usize = 22;
const TOP: usize = 44;

/// The same as a picture that needs no font and no style of the page's own.
pub(crate) fn svg(rows: &[Row]) -> String {
    let (width, height) = (LANES.len() * WIDTH + 10, TOP + rows.len() * STEP + 10);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    for (n, ((lane, name), (.., colour))) in LANES.iter().zip(SPANS).enumerate() {
        let x = n * WIDTH + 20;
        let (first, last) = span(rows, *lane);
        let (top, length) = (TOP + first * STEP, (last - first + 1) * STEP);
        let _ = writeln!(out, "<text x=\"{x}\" y=\"24\" font-weight=\"bold\" fill=\"#222222\">{name}</text>");
        let _ = writeln!(
            out,
            "<rect x=\"{}\" y=\"{top}\" width=\"6\" height=\"{length}\" rx=\"3\" fill=\"{colour}\"/>",
            x - 10
        );
        for (at, row) in rows.iter().enumerate().filter(|(_, row)| row.lane == *lane) {
            let y = TOP + at * STEP + 15;
            let _ = writeln!(out, "<text x=\"{}\" y=\"{y}\" fill=\"#222222\">{}</text>", x + 4, row.text);
        }
    }
    out + "</svg>\n"
}
