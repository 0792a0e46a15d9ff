//! Tables of fragments and their problems, a template a section: CF-02, CF-10.

use super::read;

#[test]
fn says_what_the_table_says() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/config/tests/problems.txt");
    let table = std::fs::read_to_string(file).unwrap();
    let actual = answer(&table);
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(file, actual).unwrap();
        return;
    }
    for (expected, actual) in table.lines().zip(actual.lines()) {
        assert_eq!(actual, expected);
    }
    assert_eq!(actual.len(), table.len());
}

/// The table with the answers of today.
fn answer(table: &str) -> String {
    let mut lines = Vec::new();
    let mut template = None;
    for line in table.lines() {
        if line.starts_with(' ') {
            continue;
        }
        lines.push(line.to_owned());
        if let Some(text) = line.strip_prefix("template ") {
            template = Some(unescape(text));
        } else if let Some(template) = template.as_ref().filter(|_| !line.is_empty()) {
            let fragment = if line == "(nothing)" { String::new() } else { unescape(line) };
            match read(&template.replace('$', &fragment)) {
                Ok(_) => lines.push("    ok".to_owned()),
                Err(error) => lines.extend(error.to_string().lines().map(|line| {
                    let line = line.strip_prefix("mesh.yaml:").expect("every problem names the file");
                    format!("    {}", line.trim_start())
                })),
            }
        }
    }
    lines.join("\n") + "\n"
}

fn unescape(text: &str) -> String {
    text.replace("\\n", "\n").replace("\\t", "\t")
}
