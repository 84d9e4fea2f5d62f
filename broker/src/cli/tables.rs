//! `ottla tables`: the README's generated tables, compared with the code or written anew.
//!
//! Reads and writes the one file it is given, and of that only what stands between markers.

use std::path::Path;

use super::TablesArgs;
use crate::config::table as broker_config;
use crate::{router, topic_config};

/// Runs `ottla tables`. The error is one line for the operator.
pub fn tables(args: &TablesArgs) -> Result<(), String> {
    let tables = [
        ("api-table", router::markdown_table()),
        ("broker-config-table", broker_config::markdown_table()),
        ("topic-config-table", topic_config::markdown_table()),
        ("metrics-table", crate::metrics::markdown_table()),
    ];
    let read = |path: &Path| {
        std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))
    };
    if let Some(path) = &args.write {
        let text = fill(&read(path)?, &tables)
            .map_err(|problem| format!("{}: {problem}", path.display()))?;
        std::fs::write(path, text)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    if let Some(path) = &args.check {
        let text = read(path)?;
        let filled =
            fill(&text, &tables).map_err(|problem| format!("{}: {problem}", path.display()))?;
        if filled != text {
            let path = path.display();
            return Err(format!(
                "{path}: generated tables are out of date; run ottla tables --write {path}"
            ));
        }
    }
    Ok(())
}

const END: &str = "<!-- end -->";

/// The text with what stands between `<!-- generated: NAME -->` and `<!-- end -->` replaced by each table.
fn fill(text: &str, tables: &[(&str, String)]) -> Result<String, String> {
    let mut filled = text.to_owned();
    for (name, table) in tables {
        let marker = format!("<!-- generated: {name} -->");
        let (before, rest) = filled
            .split_once(&marker)
            .ok_or_else(|| format!("has no line {marker}"))?;
        if rest.contains(&marker) {
            return Err(format!("has {marker} twice"));
        }
        let (stale, after) = rest
            .split_once(END)
            .ok_or_else(|| format!("has no {END} after {marker}"))?;
        if stale.contains("<!-- generated:") {
            return Err(format!("has no {END} of its own after {marker}"));
        }
        filled = format!("{before}{marker}\n{table}{END}{after}");
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_replace_only_what_stands_between_their_markers() {
        let readme = "# Title\n<!-- generated: a -->\nold\n<!-- end -->\nmiddle\n<!-- generated: b --><!-- end -->\nend\n";
        let tables = [("a", "| a |\n".to_owned()), ("b", "| b |\n".to_owned())];
        let filled = fill(readme, &tables).unwrap();
        let expected = "# Title\n<!-- generated: a -->\n| a |\n<!-- end -->\nmiddle\n<!-- generated: b -->\n| b |\n<!-- end -->\nend\n";
        assert_eq!(filled, expected);
        assert_eq!(fill(&filled, &tables).unwrap(), filled);
    }

    #[test]
    fn missing_or_crossed_markers_are_errors() {
        let tables = [("a", String::new())];
        for readme in [
            "",
            "<!-- generated: a -->",
            "<!-- generated: a --> <!-- generated: b --> <!-- end -->",
            "<!-- generated: a --><!-- end --><!-- generated: a --><!-- end -->",
        ] {
            assert!(fill(readme, &tables).is_err(), "{readme}");
        }
    }
}
