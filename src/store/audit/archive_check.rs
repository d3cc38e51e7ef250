//! The full check of archives: no database, nothing but the files and whom to believe.

use std::io::{self, BufRead, Read as _};
use std::time::Instant;

use super::archive::{ArchivedEvent, Exported, FORMAT, Line};
use super::checked::{Checked, Found, Own};
use super::fault::Wrong;
use super::verify::{Progress, Trust, Verified};
use super::walk::Walk;

/// Events that are pushed together.
const PAGE: usize = 8192;

/// A line is an event; nothing an event holds comes near it.
const LONGEST_LINE: u64 = 64 << 20;

/// Verifies archives of one log, given in their order: hashes, streams, roots, the chain of seals,
/// signatures, anchors. Each must go on where the one before it ended.
///
/// A stream that began before the first archive is followed from its first event there; what that says
/// of the event before it, its seal vouches for.
///
/// # Errors
/// A file that cannot be read at all. What is wrong with its content is a fault of the answer.
pub fn verify_archives<R: BufRead>(
    archives: impl IntoIterator<Item = R>,
    trust: &Trust,
    progress: &dyn Fn(Progress),
) -> io::Result<Verified> {
    let start = Instant::now();
    let mut walk = None;
    for archive in archives {
        let reading = Reading { line: 0, page: Vec::new(), found: Exported::default() };
        reading.read(archive, &mut walk, trust, progress)?;
    }
    let mut walk = walk.unwrap_or_else(|| Walk::after(None, trust));
    walk.finish_archive();
    Ok(Verified { complete: true, took: start.elapsed(), ..walk.verified })
}

struct Reading {
    line: u64,
    page: Vec<Checked>,
    found: Exported,
}

impl Reading {
    fn read<'t>(
        mut self,
        mut archive: impl BufRead,
        walk: &mut Option<Walk<'t>>,
        trust: &'t Trust,
        progress: &dyn Fn(Progress),
    ) -> io::Result<()> {
        let mut said = None;
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            self.line += 1;
            if archive.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut bytes)? == 0 {
                break;
            }
            let line = match parse(&bytes) {
                Ok(Line::Archive(header)) if self.line == 1 && header.format == FORMAT => {
                    self.found.last_seal = header.after.as_ref().map_or(0, |seal| seal.seal_no);
                    walk.get_or_insert_with(|| Walk::after(header.after.map(|seal| *seal), trust));
                    continue;
                }
                // Only the first line says what the rest is.
                Ok(_) if self.line == 1 => Err(format!("it does not say that this is a {FORMAT:?}")),
                Ok(Line::Archive(_)) => Err("it begins another archive".to_owned()),
                Ok(_) if said.is_some() => Err("it stands behind the archive's end".to_owned()),
                read => read,
            };
            let walk = walk.get_or_insert_with(|| Walk::after(None, trust));
            match line {
                Ok(Line::Event(event)) => {
                    self.found.events += 1;
                    self.page.push(check(&event));
                    if self.page.len() >= PAGE {
                        self.flush(walk);
                        progress(Progress { events: walk.verified.events, of: 0 });
                    }
                }
                Ok(Line::Seal(seal)) => {
                    self.flush(walk);
                    self.found.seals += 1;
                    self.found.last_seal = seal.seal_no;
                    walk.admit(*seal);
                }
                Ok(Line::Leaf(leaf)) => self.page.push(Checked::archived(leaf.position, leaf.stream_kind, &leaf.hash)),
                Ok(Line::Passed(seal)) => {
                    self.flush(walk);
                    self.found.seals += 1;
                    self.found.last_seal = seal.seal_no;
                    walk.admit_with(*seal, true);
                }
                Ok(Line::End(end)) => said = Some(end),
                Ok(Line::Archive(_)) => {}
                Err(why) => {
                    self.flush(walk);
                    walk.say_of_file(Wrong::Line { line: self.line, why });
                    if self.line == 1 {
                        return Ok(());
                    }
                }
            }
        }
        let walk = walk.get_or_insert_with(|| Walk::after(None, trust));
        self.flush(walk);
        match said {
            None => walk.say_of_file(Wrong::ArchiveCutOff),
            Some(said) if said != self.found => {
                walk.say_of_file(Wrong::ArchiveCounts { said: said.to_string(), found: self.found.to_string() });
            }
            Some(_) => {}
        }
        Ok(())
    }

    fn flush(&mut self, walk: &mut Walk<'_>) {
        walk.push_without_look_up(&self.page);
        self.page.clear();
    }
}

fn parse(bytes: &[u8]) -> Result<Line<'_>, String> {
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

fn check(event: &ArchivedEvent<'_>) -> Checked {
    let own = |event: &ArchivedEvent<'_>| {
        let (kind, link) = (event.kind()?, event.link()?);
        Ok(Own::of(event.position, kind, &link, event.prev_hash, event.hash))
    };
    Checked { position: event.position, event: own(event).map_or_else(Found::Unreadable, Found::Here) }
}
