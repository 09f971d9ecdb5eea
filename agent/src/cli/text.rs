//! Text for people's terminals.
//!
//! Names come from manifests and from the network: nothing of them reaches a terminal unescaped ([`escape`], and
//! [`json_line`] for `-o json`). Renderers always write colours; the output stream strips them where nobody sees them.

use std::{
    borrow::Cow,
    fmt::{Display, Write as _},
    io,
};

use comfy_table::{ContentArrangement, Table, presets};
use owo_colors::{OwoColorize, Style};
use serde::Serialize;

use crate::api::{PolicyName, Verdict};

/// Columns that every table fits in.
pub(crate) const WIDTH: u16 = 100;

/// Whether a character does something to a terminal or to the reading order instead of being shown.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{feff}'
            // Zero width and direction marks; line and paragraph separators; embeddings, overrides, isolates.
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// The text with everything spelled out that a terminal would act on: `\n`, `\t`, `\u{1b}`.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_unsafe(c) {
            match c {
                '\n' | '\r' | '\t' => safe.extend(c.escape_default()),
                _ => safe.extend(c.escape_unicode()),
            }
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// A value as one line of JSON, with its line break. What JSON itself does not escape but a terminal would act on,
/// C1 control characters for one, is escaped too; the value stays the same.
pub(crate) fn json_line(value: &impl Serialize) -> io::Result<String> {
    let json = serde_json::to_string(value)?;
    let mut line = String::with_capacity(json.len() + 1);
    for c in json.chars() {
        if is_unsafe(c) {
            // Outside strings JSON has no such characters.
            for unit in c.encode_utf16(&mut [0; 2]) {
                line.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            line.push(c);
        }
    }
    line.push('\n');
    Ok(line)
}

/// Text in a style.
pub(crate) fn paint(text: impl Display, style: Style) -> String {
    text.style(style).to_string()
}

/// Good.
pub(crate) fn good() -> Style {
    Style::new().green()
}

/// Bad.
pub(crate) fn bad() -> Style {
    Style::new().red().bold()
}

/// To be looked at.
pub(crate) fn warn() -> Style {
    Style::new().yellow()
}

/// A heading.
pub(crate) fn strong() -> Style {
    Style::new().bold()
}

/// Of lesser interest.
pub(crate) fn faint() -> Style {
    Style::new().dimmed()
}

/// `ALLOWED`, `DENIED` or `AUDITED`, in its colour.
pub(crate) fn verdict(verdict: Verdict) -> String {
    let style = match verdict {
        Verdict::Allowed => good(),
        Verdict::Denied => bad(),
        Verdict::Audited => warn(),
    };
    paint(verdict.name().to_uppercase(), style)
}

/// Policies, separated by commas, escaped.
pub(crate) fn policies(names: &[PolicyName]) -> String {
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    escape(&names.join(", ")).into_owned()
}

/// `1 pod`, `2 pods`.
pub(crate) fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// A table without borders. Cells must be escaped and without colour: their width is measured.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(WIDTH)
        .set_header(header.iter().copied());
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Wraps words to [`WIDTH`], later lines indented.
pub(crate) fn wrap(text: &str, first: &str, indent: usize) -> String {
    let mut out = String::from(first);
    let mut column = first.chars().count();
    let mut empty = true;
    for word in text.split(' ') {
        let length = word.chars().count();
        if !empty && column + 1 + length > usize::from(WIDTH) {
            // Writing to a String can not fail.
            let _infallible = write!(out, "\n{:indent$}", "");
            column = indent;
        } else if !empty {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
        empty = false;
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_unsafe_is_left() {
        for (text, safe) in [
            ("shop/web-7d9f8", "shop/web-7d9f8"),
            ("grüße/名前 ✓", "grüße/名前 ✓"),
            ("a\u{1b}[31mred\u{1b}[0m", r"a\u{1b}[31mred\u{1b}[0m"),
            ("\u{1b}]0;title\u{7}", r"\u{1b}]0;title\u{7}"),
            ("\u{9b}2J", r"\u{9b}2J"),
            (
                "two\nlines\r\tand\u{8}\u{7f}\0",
                r"two\nlines\r\tand\u{8}\u{7f}\u{0}",
            ),
            ("moc.\u{202e}elgoog", r"moc.\u{202e}elgoog"),
            ("ad\u{200b}min\u{feff}\u{2066}", r"ad\u{200b}min\u{feff}\u{2066}"),
            ("line\u{2028}break", r"line\u{2028}break"),
            ("", ""),
        ] {
            assert_eq!(escape(text), safe);
        }
        let every: String = (0..0x3000).filter_map(char::from_u32).collect();
        assert!(!escape(&every).contains(is_unsafe));
    }

    #[test]
    fn json_is_safe_and_means_the_same() {
        let text = "a\u{1b}[31m\u{9b}2J\u{7f}\u{202e}\n\u{e0041}\"\\é";
        let line = json_line(&text).unwrap();
        assert!(!line.trim_end_matches('\n').contains(is_unsafe), "{line:?}");
        assert!(line.contains('é'), "what is harmless stays readable");
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
    }

    #[test]
    fn a_table_fits_its_width() {
        let row = |s: &str| vec![s.to_owned(), "10.42.0.2".to_owned(), "x".to_owned()];
        let text = table(
            &["POD", "ADDRESS", "WHY"],
            [row("shop/web"), row(&"long-name-".repeat(20))],
        );
        assert!(text.starts_with("POD "), "{text}");
        assert!(
            text.lines()
                .all(|line| line.chars().count() <= usize::from(WIDTH)),
            "{text}"
        );
        assert!(text.lines().all(|line| line == line.trim_end()));
        let narrow = table(&["POD", "ADDRESS", "WHY"], [row("shop/web")]);
        assert_eq!(narrow, "POD       ADDRESS    WHY\nshop/web  10.42.0.2  x\n");
    }

    #[test]
    fn words_wrap_under_their_start() {
        let text = wrap(&"word ".repeat(30), "  AB001  ", 9);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("  AB001  word word"));
        assert!(lines[1].starts_with("         word"));
        assert!(lines.iter().all(|line| line.len() <= usize::from(WIDTH)));
    }
}
