//! The events of an archive as Parquet, for whoever wants to ask questions of them.
//!
//! What proves them stays in the archive: this is a copy for reading.

use std::io::{self, BufRead, Write};
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::archive::{ArchivedEvent, FORMAT, Line};

/// Rows written at once, and so held in memory.
const ROW_GROUP: usize = 20_000;

/// Times are UTC. A payload is the JSON text that was hashed; hashes are 32 bytes.
const SCHEMA: &str = "message event {
    REQUIRED INT64 position;
    REQUIRED BYTE_ARRAY stream_id (UTF8);
    REQUIRED BYTE_ARRAY stream_kind (UTF8);
    REQUIRED INT32 version;
    REQUIRED BYTE_ARRAY event_id (UTF8);
    REQUIRED BYTE_ARRAY type (UTF8);
    REQUIRED INT32 schema_version;
    REQUIRED INT64 recorded_at (TIMESTAMP_MICROS);
    REQUIRED BYTE_ARRAY actor (UTF8);
    OPTIONAL BYTE_ARRAY correlation_id (UTF8);
    OPTIONAL BYTE_ARRAY causation_id (UTF8);
    REQUIRED BYTE_ARRAY payload (UTF8);
    OPTIONAL BYTE_ARRAY prev_hash;
    REQUIRED BYTE_ARRAY hash;
}";

/// Why there is no Parquet file.
#[derive(Debug, thiserror::Error)]
pub enum NotConverted {
    #[error("cannot read the archive or write the file")]
    Io(#[from] io::Error),
    #[error("line {line} is none of an archive; tako-vm audit export --events writes one: {reason}")]
    Line { line: u64, reason: String },
    #[error("cannot write Parquet")]
    Parquet(#[from] ParquetError),
}

/// Columns of some rows, in the order of the schema.
#[derive(Default)]
struct Rows {
    position: Vec<i64>,
    version: Vec<i32>,
    schema_version: Vec<i32>,
    recorded_at: Vec<i64>,
    /// Those of text and bytes, by their place in the schema.
    bytes: [Vec<ByteArray>; 14],
    /// For the optional ones of these: whether each row has a value.
    present: [Vec<i16>; 14],
}

/// Writes the events of an archive; answers how many. It is not verified on the way.
///
/// # Errors
/// [`NotConverted`]; the file is then of no use.
pub fn to_parquet(archive: impl BufRead, out: impl Write + Send) -> Result<u64, NotConverted> {
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut writer = SerializedFileWriter::new(out, Arc::new(parse_message_type(SCHEMA)?), Arc::new(properties))?;
    let (mut rows, mut count) = (Rows::default(), 0);
    for (line, text) in (1..).zip(archive.lines()) {
        let text = text?;
        let bad = |reason: String| NotConverted::Line { line, reason };
        let read: Line<'_> = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
        match read {
            Line::Archive(header) if line != 1 || header.format != FORMAT => {
                return Err(bad(format!("its format is {:.60?}", header.format)));
            }
            Line::Event(event) => {
                rows.push(&event);
                count += 1;
            }
            Line::Archive(_) | Line::Seal(_) | Line::Passed(_) | Line::Leaf(_) | Line::End(_) => {}
        }
        if rows.position.len() == ROW_GROUP {
            std::mem::take(&mut rows).write(&mut writer)?;
        }
    }
    rows.write(&mut writer)?;
    writer.close()?;
    Ok(count)
}

impl Rows {
    fn push(&mut self, event: &ArchivedEvent<'_>) {
        self.position.push(event.position);
        self.version.push(event.version);
        self.schema_version.push(event.schema_version.into());
        self.recorded_at.push(event.recorded_at.timestamp_micros());
        let mut put = |place: usize, bytes: Option<Vec<u8>>| {
            self.present[place].push(bytes.is_some().into());
            self.bytes[place].extend(bytes.map(ByteArray::from));
        };
        let text = |text: &str| Some(text.as_bytes().to_vec());
        put(1, text(&event.stream_id.to_string()));
        put(2, text(&event.stream_kind));
        put(4, text(&event.event_id.to_string()));
        put(5, text(&event.event_type));
        put(8, text(&event.actor));
        put(9, event.correlation_id.as_deref().and_then(text));
        put(10, event.causation_id.and_then(|id| text(&id.to_string())));
        put(11, text(&event.payload));
        put(12, event.prev_hash.map(|hash| hash.as_bytes().to_vec()));
        put(13, Some(event.hash.as_bytes().to_vec()));
    }

    fn write<W: Write + Send>(self, writer: &mut SerializedFileWriter<W>) -> Result<(), ParquetError> {
        if self.position.is_empty() {
            return Ok(());
        }
        let mut group = writer.next_row_group()?;
        let mut place = 0;
        while let Some(mut column) = group.next_column()? {
            match place {
                0 => column.typed::<Int64Type>().write_batch(&self.position, None, None)?,
                3 => column.typed::<Int32Type>().write_batch(&self.version, None, None)?,
                6 => column.typed::<Int32Type>().write_batch(&self.schema_version, None, None)?,
                7 => column.typed::<Int64Type>().write_batch(&self.recorded_at, None, None)?,
                // Nothing is said of what is required.
                9 | 10 | 12 => {
                    let present = Some(self.present[place].as_slice());
                    column.typed::<ByteArrayType>().write_batch(&self.bytes[place], present, None)?
                }
                _ => column.typed::<ByteArrayType>().write_batch(&self.bytes[place], None, None)?,
            };
            column.close()?;
            place += 1;
        }
        group.close().map(drop)
    }
}
