//! A table that fits the terminal: first its texts are shortened, then columns left out, and that is said.

use super::super::text;

/// A text is not shortened below this while there is a column to leave out, unless its column has another limit.
const SHORTEST_TEXT: usize = 16;
/// Between two columns.
const GAP: usize = 2;

/// One column.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) heading: &'static str,
    /// Texts stand at the left and may be shortened; numbers stand at the right.
    pub(super) is_text: bool,
    /// Which column is left out first: the one with the highest number; 0 stays.
    pub(super) rank: u8,
    /// A text is not shortened below this while there is a column to leave out.
    shortest: usize,
    pub(super) cells: Vec<String>,
}

impl Column {
    pub(super) fn text(heading: &'static str, rank: u8, cells: impl Iterator<Item = String>) -> Self {
        Self { heading, is_text: true, rank, shortest: SHORTEST_TEXT, cells: cells.collect() }
    }

    pub(super) fn number(heading: &'static str, rank: u8, cells: impl Iterator<Item = u64>) -> Self {
        Self {
            heading,
            is_text: false,
            rank,
            shortest: 0,
            cells: cells.map(|number| number.to_string()).collect(),
        }
    }

    /// The same with another limit.
    pub(super) fn at_least(self, shortest: usize) -> Self {
        Self { shortest, ..self }
    }

    fn width(&self) -> usize {
        let cells = self.cells.iter().map(|cell| cell.chars().count());
        cells.max().unwrap_or(0).max(self.heading.chars().count())
    }

    fn shorten(&mut self, width: usize) {
        for cell in &mut self.cells {
            if let Some((at, _)) = cell.char_indices().nth(width)
                && let Some((end, _)) = cell[..at].char_indices().next_back()
            {
                cell.truncate(end);
                cell.push('…');
            }
        }
    }
}

/// The table in at most `width` columns of the terminal, if it has one, and the headings of the columns that were left out.
pub(super) fn fit(mut columns: Vec<Column>, width: Option<usize>) -> (String, Vec<&'static str>) {
    let mut left_out = Vec::new();
    if let Some(width) = width {
        while !shorten_to(&mut columns, width, |column| column.shortest) {
            let next = (0..columns.len()).max_by_key(|column| columns[*column].rank);
            match next {
                Some(next) if columns[next].rank > 0 => left_out.push(columns.remove(next).heading),
                _ => {
                    shorten_to(&mut columns, width, |_| 1);
                    break;
                }
            }
        }
    }
    (lines(&columns), left_out)
}

/// Shortens texts, the longest first, but none below what is `shortest` for its column; leaves all as it is if that is not enough.
fn shorten_to(columns: &mut [Column], width: usize, shortest: fn(&Column) -> usize) -> bool {
    let mut widths: Vec<usize> = columns.iter().map(Column::width).collect();
    let gaps = GAP * columns.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > width {
        let can = |number: &usize| {
            let column = &columns[*number];
            column.is_text && widths[*number] > shortest(column).max(column.heading.len())
        };
        let Some(longest) = (0..columns.len()).filter(can).max_by_key(|column| widths[*column]) else {
            return false;
        };
        widths[longest] -= 1;
    }
    for (column, width) in columns.iter_mut().zip(widths) {
        column.shorten(width);
    }
    true
}

fn lines(columns: &[Column]) -> String {
    let rows = columns.first().map_or(0, |column| column.cells.len());
    let heading = columns.iter().map(|column| column.heading.to_owned()).collect();
    let row = |row: usize| columns.iter().map(|column| column.cells[row].clone()).collect();
    let all: Vec<Vec<String>> = std::iter::once(heading).chain((0..rows).map(row)).collect();
    text::table(&all, |column| columns[column].is_text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> Vec<Column> {
        let texts = |texts: [&str; 2]| texts.map(str::to_owned).into_iter();
        vec![
            Column::text("PROCESS", 0, texts(["a-rather-long-name-of-a-process[4242]", "größer[1]"])),
            Column::number("SENT", 0, [123_456, 7].into_iter()),
            Column::number("RESENT", 1, [0, 0].into_iter()),
            Column::text("LAST", 2, texts(["01:22:47.123", "01:22:48.123"])),
            Column::text("PEERS", 0, texts(["www.example.com, www.example.org, 10.0.0.1", "-"])),
        ]
    }

    #[test]
    fn without_a_terminal_nothing_is_missing() {
        let (text, left_out) = fit(columns(), None);
        assert_eq!(left_out, [] as [&str; 0]);
        assert_eq!(
            text,
            "PROCESS                                  SENT  RESENT  LAST          PEERS\n\
             a-rather-long-name-of-a-process[4242]  123456       0  01:22:47.123  www.example.com, www.example.org, 10.0.0.1\n\
             größer[1]                                   7       0  01:22:48.123  -\n"
        );
    }

    #[test]
    fn the_longest_texts_are_shortened_first_and_then_columns_left_out() {
        for (width, missing) in [(110, &[][..]), (64, &[]), (63, &["LAST"]), (49, &["LAST", "RESENT"])] {
            let (text, left_out) = fit(columns(), Some(width));
            assert_eq!(left_out, missing, "{width}\n{text}");
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}\n{text}");
            assert!(text.contains("größer[1]"), "{text}");
        }
        assert!(fit(columns(), Some(64)).0.contains("a-rather-"));
    }

    #[test]
    fn what_must_stay_stays_however_narrow_the_terminal_is() {
        for width in 0..20 {
            let (text, _) = fit(columns(), Some(width));
            assert_eq!(text.lines().count(), 3, "{text}");
            assert!(text.contains("123456"), "a number is never cut: {text}");
        }
    }
}
