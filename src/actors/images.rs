//! The images of job types on this node, and which of them go when the disk has no room for more.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use super::builder::Refusal;
use super::builds::Builds;
use crate::engine::build::BuiltImage;
use crate::store::JobTypeVersion;

/// An image, and what is known of its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub built: BuiltImage,
    pub built_at: Option<DateTime<Utc>>,
    pub last_used_at: Option<DateTime<Utc>>,
    pub version_tag: Option<String>,
    /// Why it is not removed, if so.
    pub pinned: Option<&'static str>,
}

impl Held {
    fn last(&self) -> Option<DateTime<Utc>> {
        self.last_used_at.max(self.built_at)
    }
}

/// What was removed to make room.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Room {
    pub removed: Vec<Held>,
    /// What is left.
    pub bytes: u64,
    /// What may be left; 0 when there is no limit.
    pub budget_bytes: u64,
}

impl Builds {
    /// The images of this node, those that would go first at the end.
    ///
    /// # Errors
    /// When the engine or the database does not answer.
    pub async fn held(&self) -> Result<Vec<Held>, Refusal> {
        let built = self.parts.engine.built().await;
        let built = built.map_err(|error| Refusal::of_build("(all)", &error.into(), String::new()))?;
        let rows = self.parts.store.job_type_versions(None).await;
        let rows = rows.map_err(|error| Refusal::of_store("(all)", &error))?;
        Ok(self.with_facts(built, rows))
    }

    fn with_facts(&self, built: Vec<BuiltImage>, rows: Vec<JobTypeVersion>) -> Vec<Held> {
        // Rows come newest first, so a version's place is its age.
        let mut places: HashMap<&str, u32> = HashMap::new();
        let mut known: HashMap<(&str, &str), (u32, &JobTypeVersion)> = HashMap::new();
        let present = |name: &str| self.parts.job_types.present(name);
        for row in &rows {
            let is_present = present(&row.job_type).is_some_and(|it| it.environment.digest.to_string() == row.digest);
            // The present version has the first place, whenever it was built.
            let place =
                if is_present { 0 } else { 1 + *places.entry(&row.job_type).and_modify(|n| *n += 1).or_default() };
            known.insert((&row.job_type, &row.digest), (place, row));
        }
        let now = self.parts.clock.now();
        let mut held: Vec<Held> = built
            .into_iter()
            .map(|built| {
                let fact = known.get(&(built.job_type.as_str(), built.version.as_str())).copied();
                let mut held = Held {
                    built_at: fact.map(|(_, row)| row.created_at),
                    last_used_at: fact.and_then(|(_, row)| row.last_used_at),
                    version_tag: fact.and_then(|(_, row)| row.version_tag.clone()),
                    pinned: None,
                    built,
                };
                held.pinned = self.pin(&held, fact.map(|(place, _)| place), now);
                held
            })
            .collect();
        held.sort_by_key(|held| std::cmp::Reverse(held.last()));
        held
    }

    /// Why an image stays whatever the budget, if so.
    fn pin(&self, held: &Held, place: Option<u32>, now: DateTime<Utc>) -> Option<&'static str> {
        if self.is_under_way(&held.built.version) {
            return Some("being built");
        }
        // Two job types may be made of the same things.
        if self.parts.job_types.all().iter().any(|it| it.environment.digest.to_string() == held.built.version) {
            return Some("present version");
        }
        let present = self.parts.job_types.present(&held.built.job_type)?;
        let retention = present.job_type.image_retention;
        if place.is_some_and(|place| place < retention.keep_versions) {
            return Some("image_retention.keep_versions");
        }
        let until = held.last().map(|last| last + TimeDelta::days(i64::from(retention.keep_days)));
        (retention.keep_days > 0 && until.is_some_and(|until| until > now)).then_some("image_retention.keep_days")
    }

    /// Removes images, the least recently used first, until the rest is within the budget. With
    /// `dry_run` it only says which.
    ///
    /// # Errors
    /// When the engine or the database does not answer.
    pub async fn collect(&self, dry_run: bool) -> Result<Room, Refusal> {
        let mut held = self.held().await?;
        let budget_bytes = self.parts.config.build.disk_budget;
        let mut room = Room { bytes: held.iter().map(|held| held.built.bytes).sum(), budget_bytes, ..Room::default() };
        while let Some(oldest) = held.pop() {
            if budget_bytes == 0 || room.bytes <= budget_bytes {
                break;
            }
            if oldest.pinned.is_some() {
                continue;
            }
            let is_gone = dry_run || {
                self.forget(&oldest.built.version);
                match self.parts.engine.remove_built(&oldest.built).await {
                    Ok(is_gone) => is_gone,
                    Err(error) => {
                        tracing::warn!(error = %error, image = oldest.built.image.reference, "an image stays");
                        false
                    }
                }
            };
            if is_gone {
                room.bytes -= oldest.built.bytes;
                room.removed.push(oldest);
            }
        }
        Ok(room)
    }

    /// The same, for nobody who waits for an answer.
    pub async fn make_room(self: &Arc<Self>) {
        match self.collect(false).await {
            Ok(room) if !room.removed.is_empty() => {
                tracing::info!(removed = room.removed.len(), left_bytes = room.bytes, "made room for images");
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(error = %error, "no look was had at the images"),
        }
    }
}
