//! Collects what is out of bounds, in words that name the key, the value and the bounds.

use std::fmt::Display;
use std::time::Duration;

use super::units::bytes;

/// What was found wrong so far: dotted path, and what to say of it.
#[derive(Debug, Default)]
pub(super) struct Bounds {
    pub found: Vec<(String, String)>,
}

impl Bounds {
    pub(super) fn number<T: PartialOrd + Display>(&mut self, key: &str, value: T, low: T, high: T) {
        let within = low <= value && value <= high;
        self.require(within, key, || format!("{value} is out of bounds ({low} to {high})"));
    }

    /// Bounds in seconds.
    pub(super) fn seconds(&mut self, key: &str, value: Duration, low: f64, high: f64) {
        self.number(key, value.as_secs_f64(), low, high);
    }

    pub(super) fn bytes(&mut self, key: &str, value: u64, low: u64, high: u64) {
        self.require((low..=high).contains(&value), key, || {
            let [value, low, high] = [value, low, high].map(bytes::display);
            format!("{value} is out of bounds ({low} to {high})")
        });
    }

    /// Text of at most `longest` bytes in which every character is allowed.
    pub(super) fn text(&mut self, key: &str, value: &str, longest: usize, allowed: fn(char) -> bool) {
        self.require(value.len() <= longest, key, || format!("{} bytes are too long (at most {longest})", value.len()));
        if let Some(character) = value.chars().find(|c| !allowed(*c)) {
            self.say(key, format!("{character:?} is not allowed here"));
        }
    }

    pub(super) fn count(&mut self, key: &str, value: usize, high: usize) {
        self.require(value <= high, key, || format!("{value} entries are too many (at most {high})"));
    }

    pub(super) fn require(&mut self, holds: bool, key: &str, message: impl FnOnce() -> String) {
        if !holds {
            self.say(key, message());
        }
    }

    pub(super) fn say(&mut self, key: &str, message: String) {
        self.found.push((key.to_owned(), message));
    }
}
