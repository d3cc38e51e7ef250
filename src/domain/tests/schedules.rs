//! Due times, through the turns of clocks, and what a schedule's stream comes to.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use proptest::collection::vec;
use proptest::prelude::*;
use uuid::Uuid;

use super::strategies::{schedule_event, time};
use crate::domain::*;

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// The next so many times after a moment, in UTC.
fn times(cron: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
    let calendar = Calendar::read(cron, zone).unwrap();
    let first = calendar.next_after(at(after));
    let times = std::iter::successors(first, |last| calendar.next_after(*last)).take(count);
    times.map(|time| time.format("%Y-%m-%dT%H:%M:%SZ").to_string()).collect()
}

#[test]
fn five_fields_are_minutes_and_six_begin_with_seconds() {
    assert_eq!(times("30 4 * * *", "UTC", "2026-01-01T04:30:00Z", 1), ["2026-01-02T04:30:00Z"]);
    assert_eq!(
        times("*/20 * * * * *", "UTC", "2026-01-01T00:00:39.5Z", 2),
        ["2026-01-01T00:00:40Z", "2026-01-01T00:01:00Z"]
    );
    assert_eq!(times("@daily", "UTC", "2026-01-01T12:00:00Z", 1), ["2026-01-02T00:00:00Z"]);
    assert_eq!(times("0 9 * * MON-FRI", "UTC", "2026-01-02T09:00:00Z", 1), ["2026-01-05T09:00:00Z"]);
}

#[test]
fn what_is_no_cron_expression_or_no_zone_says_so() {
    let long = "1,".repeat(200);
    for cron in ["", "* * * *", "* * * * * * *", "61 * * * *", "nonsense", "@often", &long] {
        let refused = Calendar::read(cron, "UTC").unwrap_err();
        assert!(matches!(&refused, NotACalendar::Cron(why) if why.contains("must be a cron")), "{cron}: {refused:?}");
    }
    for zone in ["", "Mars/Olympus", "utc+1"] {
        assert!(matches!(Calendar::read("* * * * *", zone), Err(NotACalendar::Zone(_))), "{zone}");
    }
    assert_eq!(Calendar::read("0 0 30 2 *", "UTC").unwrap().next_after(at("2026-01-01T00:00:00Z")), None);
}

#[test]
fn a_time_that_the_clock_skips_comes_once_right_after() {
    // In Berlin 2 o'clock became 3 on 29 March 2026.
    assert_eq!(
        times("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", 3),
        ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]
    );
}

#[test]
fn a_fixed_time_that_comes_twice_fires_at_the_first_and_steps_fire_in_both_hours() {
    // In Berlin 3 o'clock became 2 on 25 October 2026.
    assert_eq!(
        times("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2),
        ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
    );
    assert_eq!(
        times("*/30 * * * *", "Europe/Berlin", "2026-10-25T00:00:00Z", 4),
        ["2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:00:00Z"]
    );
}

fn schedule(cron: &str, missed: Missed, from: &str) -> Schedule {
    let terms = ScheduleTerms {
        cron: cron.to_owned(),
        timezone: "UTC".to_owned(),
        overlap: Overlap::Allow,
        missed,
        job: Digest::of(b"job"),
    };
    let defined =
        ScheduleDefined { tenant: "t".to_owned(), name: "n".to_owned(), terms, enabled: true, by: "b".to_owned() };
    Schedule::evolve(None, (Uuid::nil(), 1, at(from)), &defined.into()).unwrap()
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_time_within_the_margin_is_in_time_and_an_older_one_was_missed() {
    let hourly = schedule("0 * * * *", Missed::Skip, "2026-01-01T00:30:00Z");
    assert_eq!(hourly.due(at("2026-01-01T00:59:59Z"), MINUTE), Due::Later(Some(at("2026-01-01T01:00:00Z"))));
    let due_at = at("2026-01-01T01:00:00Z");
    assert_eq!(hourly.due(at("2026-01-01T01:01:00Z"), MINUTE), Due::Fire { due_at, missed_since: None });
    let through = at("2026-01-01T05:00:00Z");
    assert_eq!(hourly.due(at("2026-01-01T05:30:00Z"), MINUTE), Due::Skip { due_at, through });
    // Of what is skipped, the last is not the one that is still in time.
    let through = at("2026-01-01T04:00:00Z");
    assert_eq!(hourly.due(at("2026-01-01T05:00:30Z"), MINUTE), Due::Skip { due_at, through });
    let once = schedule("0 * * * *", Missed::Once, "2026-01-01T00:30:00Z");
    let stands_for = Due::Fire { due_at: at("2026-01-01T05:00:00Z"), missed_since: Some(due_at) };
    assert_eq!(once.due(at("2026-01-01T05:30:00Z"), MINUTE), stands_for);
    assert_eq!(once.due(at("2026-01-01T01:30:00Z"), MINUTE), Due::Fire { due_at, missed_since: None });
}

#[test]
fn a_pause_lets_times_go_by() {
    let mut hourly = schedule("0 * * * *", Missed::Once, "2026-01-01T00:30:00Z");
    let by = "b".to_owned();
    let then = |schedule: Schedule, moment: &str, event: Event| {
        let version = schedule.version + 1;
        Schedule::evolve(Some(schedule), (Uuid::nil(), version, at(moment)), &event).unwrap()
    };
    hourly = then(hourly, "2026-01-01T00:40:00Z", SchedulePaused { by: by.clone() }.into());
    assert_eq!(hourly.due(at("2026-01-01T09:30:00Z"), MINUTE), Due::Later(None));
    hourly = then(hourly, "2026-01-01T09:30:00Z", ScheduleResumed { by }.into());
    assert_eq!(hourly.due(at("2026-01-01T09:30:00Z"), MINUTE), Due::Later(Some(at("2026-01-01T10:00:00Z"))));
}

proptest! {
    #[test]
    fn times_only_go_forward_and_the_one_before_is_found_again(
        minute in 0..60_u32, hour in 0..24_u32, moment in time(), zone in proptest::sample::select(vec![
            "UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu",
        ]), step in any::<bool>(),
    ) {
        let cron = if step { format!("*/{} * * * *", minute.max(1)) } else { format!("{minute} {hour} * * *") };
        let calendar = Calendar::read(&cron, zone).unwrap();
        // The next of a day's time is at most two days away, wherever clocks turn.
        let next = calendar.next_after(moment).unwrap();
        prop_assert!(next > moment && next <= moment + TimeDelta::days(2), "{cron} {zone} {moment} {next}");
        let after = calendar.next_after(next).unwrap();
        prop_assert!(after > next);
        prop_assert_eq!(calendar.last_between(moment, next), Some(next));
        prop_assert_eq!(calendar.last_between(next, after - TimeDelta::seconds(1)), None);
    }

    #[test]
    fn a_schedule_never_panics_and_its_times_only_go_forward(events in vec((schedule_event(), time()), 1..12)) {
        let mut schedule: Option<Schedule> = None;
        for (event, moment) in events {
            let version = schedule.as_ref().map_or(0, |schedule| schedule.version) + 1;
            let Ok(next) = Schedule::evolve(schedule.clone(), (Uuid::nil(), version, moment), &event) else { continue };
            if let Some(before) = &schedule {
                prop_assert!(next.reached >= before.reached);
                prop_assert!(before.removed_at.is_none() || next.fired == before.fired);
            }
            let text = serde_json::to_string(&next).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Schedule>(&text).unwrap(), &next);
            schedule = Some(next);
        }
    }
}
