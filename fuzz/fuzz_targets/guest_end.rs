//! What the guest reads: frames from a stream that may be cut, wrong or hostile. Nothing panics,
//! nothing is allocated that a header merely claims, and what parses means the same once more.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tako_guest::frame::{self, Kind, MAX_PAYLOAD_BYTES};
use tako_guest::protocol::{Boot, Cancel, FileHeader, Run};

fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    while let Ok(Some((kind, payload))) = frame::read(&mut rest) {
        assert!(payload.len() <= MAX_PAYLOAD_BYTES);
        let mut again = Vec::new();
        assert!(frame::write(&mut again, kind, &payload).is_ok());
        assert_eq!(frame::read(&mut again.as_slice()).ok().flatten(), Some((kind, payload.clone())));
        match kind {
            Kind::Boot => same_again::<Boot>(&payload),
            Kind::File => same_again::<FileHeader>(&payload),
            Kind::Run => same_again::<Run>(&payload),
            Kind::Cancel => same_again::<Cancel>(&payload),
            _ => {}
        }
    }
});

fn same_again<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(payload: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<T>(payload) {
        let text = serde_json::to_vec(&value).unwrap_or_default();
        assert_eq!(serde_json::from_slice::<T>(&text).ok(), Some(value));
    }
}
