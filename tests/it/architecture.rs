//! The rooms of the program and what each may name.

mod paths;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use paths::paths_of;

/// What the code of each room may name of the others.
const ROOMS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("clock", &[]),
    ("crash_point", &["domain"]),
    ("store", &["domain", "crash_point"]),
    ("egress", &["domain"]),
    ("engine", &["domain", "crash_point", "egress"]),
    ("actors", &["domain", "clock", "store", "egress", "engine", "config"]),
    ("api", &["domain", "store", "engine", "actors", "config"]),
    ("cli", &["domain", "clock", "crash_point", "store", "egress", "engine", "actors", "api", "config", "telemetry"]),
    ("config", &["domain", "telemetry"]),
    ("telemetry", &["config"]),
    (
        "lib",
        &["domain", "clock", "crash_point", "store", "egress", "engine", "actors", "api", "cli", "config", "telemetry"],
    ),
    ("main", &["cli"]),
];

/// Who alone may name a crate, by the beginning of the path below `src`.
const CRATES: &[(&str, &[&str])] = &[
    ("sqlx", &["store/"]),
    ("bollard", &["engine/docker/"]),
    ("actix", &["actors/", "api/", "cli/server/"]),
    ("actix_web", &["api/", "cli/server/"]),
    ("tokio", &["store/", "egress/", "engine/", "actors/", "api/", "cli/"]),
    ("clap", &["cli/"]),
    ("chacha20poly1305", &["store/private.rs", "store/vault_key.rs"]),
    ("ed25519_dalek", &["store/audit/"]),
    ("httparse", &["egress/"]),
    ("tokio_rustls", &["egress/"]),
    ("rustls_native_certs", &["egress/"]),
    ("anyhow", &["cli/"]),
    ("croner", &["domain/cron.rs"]),
    ("chrono_tz", &["domain/cron.rs"]),
    ("reqwest", &["cli/"]),
    ("object_store", &["store/"]),
    ("tako_guest", &["engine/", "actors/", "domain/outcome.rs", "domain/tests/"]),
];

/// What one room may name of another, where that is less than all of it.
const PARTS: &[(&str, &str, &[&str])] = &[
    // The API shows what comes out of a sandbox; it never starts or ends one.
    ("api", "engine", &["Stream", "pool::PoolStats"]),
    // It reads projections, and writes by sending messages only.
    (
        "api",
        "store",
        &[
            "Store",
            "Error",
            "ObjectsHealth",
            "StoredEvent",
            "Filter",
            "Page",
            "StatusCounts",
            "Stored",
            "Page",
            "Family",
            "Page",
            "Member",
            "Reach",
            "LogFilter",
            "DeadLetterFilter",
            "DeadLetterRow",
            "Hindrance",
            "Pause",
            "Scheduled",
            "audit",
        ],
    ),
];

/// Who alone may ask what time it is.
const CLOCK: &str = "clock.rs";

/// `mod.rs` files with more than docs, modules and re-exports, and why.
const FULL_MODULES: &[(&str, &str)] = &[
    ("cli/audit/mod.rs", "the subcommand with its own subcommands"),
    ("cli/mod.rs", "the program's arguments, which name every subcommand"),
    ("cli/dev/mod.rs", "the subcommand with its own subcommands"),
    ("cli/server/mod.rs", "the subcommand"),
    ("cli/setup/mod.rs", "the subcommand with its own subcommands"),
    ("engine/mod.rs", "the traits that every engine implements"),
    ("engine/docker/mod.rs", "the engine itself"),
    ("engine/native/cgroup/mod.rs", "what both versions of cgroups have in common"),
];

const MAX_LINES: usize = 500;

#[test]
fn a_room_names_only_the_rooms_it_may() {
    let mut seen = BTreeSet::new();
    for file in sources() {
        let (_, allowed) = ROOMS
            .iter()
            .find(|(room, _)| *room == file.room)
            .unwrap_or_else(|| panic!("src/{}: no such room", file.name));
        for (room, path) in file.rooms() {
            seen.insert((file.room.clone(), room.clone()));
            assert!(
                room == file.room || allowed.contains(&room.as_str()),
                "src/{} names {path}: {} may name {allowed:?}",
                file.name,
                file.room
            );
        }
    }
    for (room, allowed) in ROOMS {
        for other in *allowed {
            // `lib` declares the rooms, and names them in its words alone.
            let is_used = *room == "lib" || *room == "engine" || seen.contains(&(room.to_string(), other.to_string()));
            assert!(is_used, "{room} does not name {other} any more: take that out of the table");
        }
    }
}

#[test]
fn a_crate_is_named_only_where_it_belongs() {
    for file in sources() {
        for path in &file.paths {
            let Some((name, homes)) = CRATES.iter().find(|(name, _)| *name == path[0]) else { continue };
            assert!(
                homes.iter().any(|home| file.name.starts_with(home)),
                "src/{} names {}: {name} belongs in {homes:?}",
                file.name,
                path.join("::")
            );
        }
    }
}

#[test]
fn the_api_names_only_what_it_shows() {
    for file in sources() {
        for (from, to, parts) in PARTS.iter().filter(|(from, _, _)| *from == file.room) {
            for (_, path) in file.rooms().into_iter().filter(|(room, _)| room == to) {
                let part = path.strip_prefix(&format!("{to}::")).unwrap_or("");
                let is_allowed = part.is_empty()
                    || parts.iter().any(|allowed| part == *allowed || part.starts_with(&format!("{allowed}::")));
                assert!(is_allowed, "src/{} names {path}: {from} may name {parts:?} of {to}", file.name);
            }
        }
    }
}

#[test]
fn only_the_clock_knows_what_time_it_is() {
    let mut clock_asks = false;
    for file in sources() {
        for path in &file.paths {
            let asks = matches!(
                &path.iter().map(String::as_str).collect::<Vec<_>>()[..],
                [.., "Utc" | "Local" | "SystemTime", "now"]
            );
            clock_asks |= asks && file.name == CLOCK;
            assert!(!asks || file.name == CLOCK, "src/{} calls {}: ask the Clock", file.name, path.join("::"));
        }
    }
    assert!(clock_asks, "this test does not see the one call that there is");
}

#[test]
fn no_source_file_is_long() {
    for folder in ["src", "guest/src", "tests", "benches"] {
        for (name, text) in files(folder) {
            let lines = text.lines().count();
            assert!(lines <= MAX_LINES, "{folder}/{name} has {lines} lines, more than {MAX_LINES}: split it");
        }
    }
}

#[test]
fn a_mod_file_holds_docs_modules_and_re_exports() {
    for (name, text) in files("src").into_iter().filter(|(name, _)| name.ends_with("mod.rs")) {
        let items =
            ["fn ", "struct ", "enum ", "trait ", "impl ", "impl<", "const ", "static ", "type ", "macro_rules!"];
        let code = text.lines().map(|line| line.trim_start_matches("pub ").trim_start_matches("pub(super) "));
        let full = code.into_iter().any(|line| items.iter().any(|item| line.starts_with(item)));
        let reason = FULL_MODULES.iter().find(|(listed, _)| *listed == name);
        assert!(!full || reason.is_some(), "src/{name} holds code: give it a file with a noun for a name");
        assert!(full || reason.is_none(), "src/{name} holds no code any more: take it out of the list");
    }
}

/// A file of `src`.
struct Source {
    /// Relative to `src`.
    name: String,
    room: String,
    /// Every path it names, aliases resolved: `crate::store::Error`, `tokio::sync::mpsc`.
    paths: Vec<Vec<String>>,
}

impl Source {
    /// The paths that lead to a room of this crate: the room, and the path from it on.
    fn rooms(&self) -> Vec<(String, String)> {
        let module: Vec<&str> = self.name.trim_end_matches(".rs").trim_end_matches("/mod").split('/').collect();
        let rooms = self.paths.iter().filter_map(|path| {
            let up = path.iter().take_while(|segment| *segment == "super").count();
            let rest = match path[0].as_str() {
                "crate" | "tako_vm" => &path[1..],
                // Only one that climbs to the root leads to another room.
                "super" if up == module.len() => &path[up..],
                _ => return None,
            };
            let room = rest.first()?.clone();
            ROOMS.iter().any(|(known, _)| *known == room).then(|| (room, rest.join("::")))
        });
        rooms.collect()
    }
}

fn sources() -> &'static [Source] {
    static SOURCES: LazyLock<Vec<Source>> = LazyLock::new(read_sources);
    &SOURCES
}

fn read_sources() -> Vec<Source> {
    let sources: Vec<_> = files("src")
        .into_iter()
        .map(|(name, text)| {
            let room = name.split('/').next().unwrap_or_default().trim_end_matches(".rs").to_owned();
            Source { paths: paths_of(&text), room, name }
        })
        .collect();
    assert!(sources.len() > 50, "only {} files were found", sources.len());
    sources
}

/// The Rust files below a folder of the repository, by name relative to it.
fn files(folder: &str) -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut found = BTreeMap::new();
    let mut left = vec![root.clone()];
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }
    found
}
