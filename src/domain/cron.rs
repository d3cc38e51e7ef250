//! Times that a cron expression names in a time zone.

use std::str::FromStr as _;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

/// Longer expressions are not read.
const MAX_LENGTH: usize = 200;

/// A cron expression of five fields, or of six with seconds first, in a time zone.
///
/// Where clocks go forward, a fixed time that is skipped comes right after the gap, and steps within it
/// do not come; where they go back, a fixed time comes once, at its first, and steps come in both hours.
#[derive(Debug, Clone)]
pub struct Calendar {
    cron: Cron,
    zone: Tz,
}

/// What keeps a calendar from being read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotACalendar {
    /// As the end of a sentence that begins with `cron`.
    Cron(String),
    /// As the end of a sentence that begins with `timezone`.
    Zone(String),
}

impl Calendar {
    /// # Errors
    /// [`NotACalendar`].
    pub fn read(cron: &str, zone: &str) -> Result<Self, NotACalendar> {
        let refused = |why: String| {
            NotACalendar::Cron(format!(
                "must be a cron expression of 5 fields, or of 6 with seconds first, like \"30 4 * * MON-FRI\": {why}"
            ))
        };
        if cron.len() > MAX_LENGTH {
            return Err(refused(format!("it has more than {MAX_LENGTH} characters")));
        }
        if !cron.starts_with('@') && !matches!(cron.split_whitespace().count(), 5 | 6) {
            return Err(refused(format!("it has {} fields", cron.split_whitespace().count())));
        }
        let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
        let cron = parser.parse(cron).map_err(|error| refused(error.to_string()))?;
        let zone = Tz::from_str(zone)
            .map_err(|_| NotACalendar::Zone(format!("{zone:.64?} is no IANA time zone, like UTC or Europe/Berlin")))?;
        Ok(Self { cron, zone })
    }

    /// The first time after a moment; `None` when there is none any more.
    pub fn next_after(&self, moment: DateTime<Utc>) -> Option<DateTime<Utc>> {
        // Whole seconds: what is left over of one would be carried along.
        let from = DateTime::from_timestamp(moment.timestamp(), 0)?.with_timezone(&self.zone);
        let next = self.cron.find_next_occurrence(&from, false).ok()?;
        Some(next.with_timezone(&Utc))
    }

    /// The last time up to a moment, but after another.
    pub fn last_between(&self, after: DateTime<Utc>, until: DateTime<Utc>) -> Option<DateTime<Utc>> {
        // The moment itself counts, and so does the second that it is in.
        let from = (DateTime::from_timestamp(until.timestamp(), 0)? + TimeDelta::seconds(1)).with_timezone(&self.zone);
        let last = self.cron.find_previous_occurrence(&from, false).ok()?.with_timezone(&Utc);
        (last > after && last <= until).then_some(last)
    }
}
