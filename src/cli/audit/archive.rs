//! `tako-vm audit archive`

use std::fs::File;
use std::io::{BufReader, BufWriter, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use chrono::{DateTime, NaiveDate, Utc};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::super::Context;
use super::super::server::open_store;
use super::trust::Trusted;
use crate::clock::{Clock as _, SystemClock};
use crate::domain::{Digest, Envelope, LogArchived};
use crate::store::audit::{Trust, verify_archives};
use crate::store::{self, Partition, Store};

/// Write whole old streams of the log to an archive, and drop their partitions if asked
///
/// The archive is verified as it stands in the file before anything is dropped. Partitions are months of
/// streams' beginnings; one is dropped when every execution in it has expired and every event is sealed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Streams that began before this day (UTC); whole partitions alone
    #[arg(long, value_name = "YYYY-MM-DD")]
    before: NaiveDate,
    /// The archive; it must not be there yet
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Drop the partitions once the archive has verified
    #[arg(long)]
    drop: bool,
    #[command(flatten)]
    trusted: Trusted,
}

pub(super) fn run(args: Args, context: &mut Context) -> Result<ExitCode> {
    let trust = args.trusted.or_configured(context)?;
    let config = context.load()?.config;
    let said = super::runtime()?.block_on(async {
        let store = open_store(&config, "").await?;
        archive(&store, &args, &trust).await
    })?;
    writeln!(context.out, "{said}")?;
    Ok(ExitCode::SUCCESS)
}

async fn archive(store: &Store, args: &Args, trust: &Trust) -> Result<String> {
    let before = args.before.and_time(chrono::NaiveTime::MIN).and_utc();
    let partitions = store.partitions_before(first_stream_of(before)).await?;
    let Some(last) = partitions.last() else {
        bail!("no partition ends before {}: the log has nothing that old by itself", args.before);
    };
    let holds = store.holds_before(last.to_stream).await?;
    if args.drop && !holds.is_free() {
        bail!("the streams before {} cannot be dropped: there are {holds}", args.before);
    }
    let shown = args.out.display();
    let file = File::create_new(&args.out).with_context(|| format!("cannot write {shown}"))?;
    let mut out = BufWriter::new(file);
    let exported = store.export_streams(last.to_stream, &mut out).await?;
    out.into_inner().map_err(|error| error.into_error())?.sync_all()?;
    let verified = verify_archives([BufReader::new(File::open(&args.out)?)], trust, &|_| {})?;
    if let Some(fault) = verified.faults.first() {
        bail!("nothing was dropped: {shown} does not verify: {fault}");
    }
    let archived =
        format!("archived {} events under {} seals in {shown}, which verifies", exported.events, exported.seals);
    if !args.drop {
        return Ok(archived);
    }
    let events = i64::try_from(exported.events).unwrap_or(i64::MAX);
    let fact = LogArchived {
        from_stream: partitions.first().and_then(|first| first.from_stream).unwrap_or(Uuid::nil()),
        to_stream: last.to_stream,
        events: exported.events,
        first_position: verified.first_position,
        last_position: verified.last_position,
        archive: digest(&args.out)?,
        by: "cli".to_owned(),
    };
    drop_them(store, &partitions, events, fact).await?;
    Ok(format!("{archived}\ndropped {} partitions", partitions.len()))
}

async fn drop_them(store: &Store, partitions: &[Partition], events: i64, fact: LogArchived) -> Result<()> {
    let envelope = Envelope {
        event_id: Uuid::now_v7(),
        stream_id: Uuid::nil(),
        version: 1,
        recorded_at: SystemClock.now(),
        correlation_id: None,
        event: fact.into(),
    };
    let said = store::new_events([(&envelope, "audit@cli")])?.pop().context("there is one event")?;
    match store.drop_partitions(partitions, events, said).await? {
        None => Ok(()),
        Some(holds) => bail!("nothing was dropped: meanwhile there are {holds}, or other events than were archived"),
    }
}

fn digest(path: &Path) -> Result<Digest> {
    let (mut file, mut digest, mut part) = (File::open(path)?, Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut part)? {
            0 => return Ok(Digest::from_bytes(digest.finalize().into())),
            length => digest.update(&part[..length]),
        }
    }
}

/// The first id (UUIDv7) of a moment.
fn first_stream_of(moment: DateTime<Utc>) -> Uuid {
    let milliseconds = moment.timestamp_millis().clamp(0, (1 << 48) - 1).unsigned_abs();
    Uuid::from_u128(u128::from(milliseconds) << 80)
}
