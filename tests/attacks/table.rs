//! The table of verdicts in `docs/security.md`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use super::arena::Place;
use super::case::{Case, Verdict};
use super::catalogue;

const BEGIN: &str = "<!-- attacks: begin; made by the attack suite, UPDATE_DOCS=1 writes it -->\n";
const END: &str = "<!-- attacks: end -->";

/// A verdict by the case's name and the engine.
type Verdicts = BTreeMap<(String, &'static str), String>;

/// Compares the docs with what was seen on an engine, or writes it there when asked to.
pub fn settle(place: Place, versions: &str, seen: &[(&Case, Verdict)]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/security.md");
    let text = fs::read_to_string(&path).expect("docs/security.md is there");
    let (before, rest) = text.split_once(BEGIN).expect("a begin marker in docs/security.md");
    let (table, after) = rest.split_once(END).expect("an end marker in docs/security.md");
    let mut verdicts = parse(table);
    verdicts.retain(|(_, engine), _| *engine != place.as_str());
    verdicts.extend(seen.iter().map(|(case, verdict)| ((case.name.to_owned(), place.as_str()), verdict.to_string())));
    let mut lines = versions_of(table);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        lines.insert(place.as_str().to_owned(), versions.to_owned());
        let made = render(&verdicts, &lines);
        fs::write(&path, format!("{before}{BEGIN}{made}{END}{after}")).expect("docs/security.md can be written");
    } else {
        let made = render(&verdicts, &lines);
        assert!(made == table, "docs/security.md says otherwise; UPDATE_DOCS=1 cargo test attacks writes:\n{made}");
    }
}

fn render(verdicts: &Verdicts, versions: &BTreeMap<String, String>) -> String {
    let mut text = String::from("\nTried with:\n\n");
    for (engine, version) in versions {
        let _ = writeln!(text, "- {engine}: {version}");
    }
    let mut notes: Vec<&str> = Vec::new();
    let columns = Place::ALL.map(Place::as_str).join(" | ");
    let _ = write!(text, "\n| case | tries | {columns} |\n|---|---|---|---|---|\n");
    for case in catalogue::all() {
        let _ = write!(text, "| {} | {} |", case.name, case.aim());
        for place in Place::ALL {
            let verdict = verdicts.get(&(case.name.to_owned(), place.as_str())).map_or("not run", String::as_str);
            let _ = write!(text, " {verdict}");
            for other in case.elsewhere.iter().filter(|other| other.place == place) {
                let number = notes.iter().position(|note| *note == other.why).unwrap_or_else(|| {
                    notes.push(other.why);
                    notes.len() - 1
                });
                let _ = write!(text, " ({})", number + 1);
            }
            text.push_str(" |");
        }
        text.push('\n');
    }
    text.push('\n');
    for (number, note) in notes.iter().enumerate() {
        let _ = writeln!(text, "{}. {note}", number + 1);
    }
    text.push('\n');
    text
}

fn parse(table: &str) -> Verdicts {
    let rows = table.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let mut verdicts = Verdicts::new();
    for row in rows {
        let cells: Vec<&str> = row.split(" | ").collect();
        let [name, _, columns @ ..] = &cells[..] else { continue };
        for (place, verdict) in Place::ALL.iter().zip(columns) {
            let verdict = verdict.split(" (").next().unwrap_or_default();
            verdicts.insert(((*name).to_owned(), place.as_str()), verdict.to_owned());
        }
    }
    verdicts
}

fn versions_of(table: &str) -> BTreeMap<String, String> {
    let lines = table.lines().filter_map(|line| line.strip_prefix("- ")?.split_once(": "));
    lines.map(|(engine, version)| (engine.to_owned(), version.to_owned())).collect()
}
