//! Finds the paths that Rust code names, well enough for a test of dependencies.

use std::collections::HashMap;

/// Every path in the code, with what `use` made of its first segment put in its place.
/// Comments, strings and what is written inside macros' patterns are of no concern.
pub fn paths_of(code: &str) -> Vec<Vec<String>> {
    let tokens = tokens(code);
    let mut paths = Vec::new();
    let mut aliases: HashMap<String, Vec<String>> = HashMap::new();
    let mut at = 0;
    while at < tokens.len() {
        let is_use = tokens[at] == "use";
        let start = if is_use { at + 1 } else { at };
        let continues = at > 0 && matches!(tokens[at - 1].as_str(), "::" | ".");
        if (is_use || is_name(&tokens[at])) && !continues && tokens.get(start).is_some_and(|token| is_name(token)) {
            let mut found = Vec::new();
            at = path(&tokens, start, &mut Vec::new(), &mut found);
            for (path, alias) in found {
                if is_use && path.len() > 1 {
                    aliases.insert(alias, path.clone());
                }
                if is_use || path.len() > 1 {
                    paths.push(path);
                }
            }
        } else {
            at += 1;
        }
    }
    for path in &mut paths {
        if let Some(whole) = aliases.get(&path[0]) {
            path.splice(0..1, whole.iter().cloned());
        }
    }
    paths
}

/// Reads a path or a tree of them; answers with the place after it.
fn path(tokens: &[String], mut at: usize, prefix: &mut Vec<String>, found: &mut Vec<(Vec<String>, String)>) -> usize {
    let depth = prefix.len();
    while let Some(token) = tokens.get(at) {
        if token == "{" {
            at += 1;
            while tokens.get(at).is_some_and(|token| token != "}") {
                at = if tokens[at] == "," { at + 1 } else { path(tokens, at, prefix, found) };
            }
            prefix.truncate(depth);
            return at + 1;
        }
        if !is_name(token) && token != "*" {
            break;
        }
        // `self` in braces is what the braces follow.
        if token != "self" || prefix.is_empty() {
            prefix.push(token.clone());
        }
        at += 1;
        let goes_on = tokens.get(at).is_some_and(|token| token == "::")
            && tokens.get(at + 1).is_some_and(|token| is_name(token) || token == "{" || token == "*");
        if !goes_on {
            break;
        }
        at += 1;
    }
    let mut alias = prefix.last().cloned().unwrap_or_default();
    if tokens.get(at).is_some_and(|token| token == "as") && tokens.get(at + 1).is_some_and(|token| is_name(token)) {
        alias = tokens[at + 1].clone();
        at += 2;
    }
    found.push((prefix.clone(), alias));
    prefix.truncate(depth);
    // Whatever stands here, the reader goes on.
    at.max(1)
}

fn is_name(token: &str) -> bool {
    token.starts_with(|char: char| char.is_alphabetic() || char == '_')
}

/// Names, `::` and single characters; without comments, strings and character literals.
fn tokens(code: &str) -> Vec<String> {
    let chars: Vec<char> = code.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    let starts =
        |at: usize, text: &str| text.chars().enumerate().all(|(index, char)| chars.get(at + index) == Some(&char));
    while at < chars.len() {
        let char = chars[at];
        if starts(at, "//") {
            while at < chars.len() && chars[at] != '\n' {
                at += 1;
            }
        } else if starts(at, "/*") {
            while at < chars.len() && !starts(at, "*/") {
                at += 1;
            }
            at += 2;
        } else if let Some(hashes) = raw_string(&chars, at) {
            let end: String = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
            at += hashes + 2;
            while at < chars.len() && !starts(at, &end) {
                at += 1;
            }
            at += end.len();
        } else if char == '"' {
            at += 1;
            while at < chars.len() && chars[at] != '"' {
                at += if chars[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
        } else if char == '\'' {
            // A character ends with another quote; a lifetime does not.
            let length = if chars.get(at + 1) == Some(&'\\') {
                chars[at + 3..].iter().position(|char| *char == '\'').map(|length| length + 4)
            } else {
                (chars.get(at + 2) == Some(&'\'')).then_some(3)
            };
            at += length.unwrap_or(1);
        } else if char.is_alphanumeric() || char == '_' {
            let start = at;
            while at < chars.len() && (chars[at].is_alphanumeric() || chars[at] == '_') {
                at += 1;
            }
            tokens.push(chars[start..at].iter().collect());
        } else if starts(at, "::") {
            tokens.push("::".to_owned());
            at += 2;
        } else {
            if !char.is_whitespace() {
                tokens.push(char.to_string());
            }
            at += 1;
        }
    }
    tokens
}

/// The number of hashes of a raw string that begins here.
fn raw_string(chars: &[char], at: usize) -> Option<usize> {
    let is_start = chars[at] == 'r' && (at == 0 || !(chars[at - 1].is_alphanumeric() && chars[at - 1] != 'b'));
    let hashes = chars[at + 1..].iter().take_while(|char| **char == '#').count();
    (is_start && chars.get(at + 1 + hashes) == Some(&'"')).then_some(hashes)
}

fn named(code: &str) -> Vec<String> {
    paths_of(code).into_iter().map(|path| path.join("::")).collect()
}

#[test]
fn a_path_is_seen_however_it_is_written() {
    assert_eq!(
        named("use crate::{store::{self, Error as E}, domain::*};"),
        ["crate::store", "crate::store::Error", "crate::domain::*"]
    );
    assert_eq!(named("fn f() -> crate::store::Error { sqlx::query(1).await }"), ["crate::store::Error", "sqlx::query"]);
    assert_eq!(named("#[tokio::test] async fn f() {}"), ["tokio::test"]);
    assert_eq!(named("use chrono::Utc as Time; let a = Time::now();"), ["chrono::Utc", "chrono::Utc::now"]);
    assert_eq!(named("use bollard;"), ["bollard"]);
    assert_eq!(named("let x: Vec<store::Error> = super::super::f::<u8>();"), ["store::Error", "super::super::f"]);
}

#[test]
fn what_is_no_code_is_not_seen() {
    let code = "// sqlx::a\n/* sqlx::b */ let a = \"sqlx::c \\\" sqlx::d\"; let b = r#\"sqlx::e \" sqlx::f\"#; \
                let c = '\"'; let d: &'static str = b\"sqlx::g\"; let e = '\\''; tokio::spawn(x.y::<Z>());";
    assert_eq!(named(code), ["tokio::spawn"]);
}
