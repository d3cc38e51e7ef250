//! Takes secrets out of what a job leaves: output, artifacts, messages.
//!
//! A value is found as it is and in the forms that printing gives it: as a JSON string, in
//! hexadecimal, percent-encoded, in base64 wherever in the encoded text it begins, and line by
//! line. Code that holds a secret can always write it in a form that nobody looks for.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

use super::secret::{MIN_SECRET_BYTES, SecretValue};

/// Lines of a value that count as secrets by themselves, as those of a key in PEM.
const MIN_LINE_BYTES: usize = 16;

/// What to look for. Cheap to ask when there is nothing.
#[derive(Default)]
pub struct Redactor {
    /// Each form with what stands in its place; the longest first.
    forms: Vec<(Vec<u8>, String)>,
    /// Places in `forms` by first byte.
    by_first: BTreeMap<u8, Vec<usize>>,
    /// The values themselves.
    values: Vec<SecretValue>,
}

/// What a place in a text is.
enum Found {
    /// A form begins here, so long, with what stands in its place.
    Form(usize, usize),
    /// The rest of the text begins a form.
    Begun,
    Nothing,
}

impl Redactor {
    pub fn of<'a>(secrets: impl IntoIterator<Item = (&'a str, &'a SecretValue)>) -> Self {
        let mut forms: BTreeMap<Vec<u8>, String> = BTreeMap::new();
        let mut values = Vec::new();
        for (name, value) in secrets {
            values.push(value.clone());
            for form in forms_of(value.expose()) {
                forms.entry(form).or_insert_with(|| format!("[secret:{name}]"));
            }
        }
        let mut forms: Vec<_> = forms.into_iter().collect();
        forms.sort_by_key(|(form, _)| std::cmp::Reverse(form.len()));
        let mut by_first: BTreeMap<u8, Vec<usize>> = BTreeMap::new();
        for (place, (form, _)) in forms.iter().enumerate() {
            by_first.entry(form[0]).or_default().push(place);
        }
        Self { forms, by_first, values }
    }

    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.forms.is_empty()
    }

    /// The same bytes without secrets.
    pub fn bytes<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        if self.is_empty() {
            return Cow::Borrowed(bytes);
        }
        let mut stream = RedactedStream::default();
        let mut redacted = stream.push(self, bytes);
        redacted.extend(stream.finish(self, false));
        if redacted == bytes { Cow::Borrowed(bytes) } else { Cow::Owned(redacted) }
    }

    /// The same text without secrets. What is put in is ASCII, and what is taken out are whole
    /// forms; one that begins inside a character leaves a replacement character behind.
    pub fn text(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.bytes(text.as_bytes())).into_owned()
    }

    /// Whether a value stands in the bytes as it is.
    pub fn is_in(&self, bytes: &[u8]) -> bool {
        let stands = |value: &SecretValue| bytes.windows(value.expose().len()).any(|window| window == value.expose());
        self.values.iter().any(stands)
    }

    /// Whether a form stands in the name of a host, in which case does not count. Labels may have
    /// parts of it; those are as good as the code's own words.
    pub fn is_in_name(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        let joined = name.replace('.', "");
        self.forms.iter().any(|(form, _)| {
            let form = String::from_utf8_lossy(form).to_ascii_lowercase();
            name.contains(&form) || joined.contains(&form.replace('.', ""))
        })
    }

    /// `is_all`: nothing comes after the rest.
    fn look(&self, rest: &[u8], is_all: bool) -> Found {
        let Some(places) = rest.first().and_then(|first| self.by_first.get(first)) else { return Found::Nothing };
        // From the longest on: a longer form that is only begun must wait for its end, or the
        // answer would depend on where the stream was cut.
        for place in places {
            let (form, _) = &self.forms[*place];
            if rest.len() >= form.len() {
                if rest.starts_with(form) {
                    return Found::Form(form.len(), *place);
                }
            } else if !is_all && form.starts_with(rest) {
                return Found::Begun;
            }
        }
        Found::Nothing
    }
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redactor").field("secrets", &self.values.len()).finish_non_exhaustive()
    }
}

/// One stream that comes in pieces. What may begin a secret is held back until it is known.
#[derive(Debug, Default)]
pub struct RedactedStream {
    held: Vec<u8>,
}

impl RedactedStream {
    /// What of the stream can be shown now.
    pub fn push(&mut self, redactor: &Redactor, piece: &[u8]) -> Vec<u8> {
        if redactor.is_empty() {
            return piece.to_vec();
        }
        let mut text = std::mem::take(&mut self.held);
        text.extend_from_slice(piece);
        let (shown, at) = passed(redactor, &text, false);
        self.held = text.split_off(at);
        shown
    }

    /// The end of the stream. What was held back goes too, unless the stream was cut: then it
    /// may be the beginning of a secret whose end was cut off.
    pub fn finish(self, redactor: &Redactor, was_cut: bool) -> Vec<u8> {
        if was_cut { Vec::new() } else { passed(redactor, &self.held, true).0 }
    }
}

/// What of a text can be shown, and how many of its bytes that stands for.
fn passed(redactor: &Redactor, text: &[u8], is_all: bool) -> (Vec<u8>, usize) {
    let mut shown = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        match redactor.look(&text[at..], is_all) {
            Found::Form(length, place) => {
                shown.extend_from_slice(redactor.forms[place].1.as_bytes());
                at += length;
            }
            Found::Begun => break,
            Found::Nothing => {
                shown.push(text[at]);
                at += 1;
            }
        }
    }
    (shown, at)
}

/// Every form in which a value is looked for.
fn forms_of(value: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = vec![value];
    // Files often end in a newline that no program passes on.
    parts.push(value.trim_ascii());
    parts
        .extend(value.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| line.len() >= MIN_LINE_BYTES));
    let mut forms = Vec::new();
    for part in parts {
        forms.push(part.to_vec());
        if let Ok(text) = std::str::from_utf8(part) {
            let quoted = serde_json::Value::from(text).to_string();
            forms.push(quoted[1..quoted.len() - 1].into());
        }
        let hexadecimal = hex::encode(part);
        forms.push(hexadecimal.to_ascii_uppercase().into());
        forms.push(hexadecimal.into());
        forms.push(percent_encoded(part).into());
        forms.extend(base64_forms(part));
    }
    forms.retain(|form| form.len() >= MIN_SECRET_BYTES);
    forms.sort();
    forms.dedup();
    forms
}

/// As a query of a URL has it.
fn percent_encoded(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => text.push(char::from(*byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

/// The characters of base64 that depend on the value alone, for each of the three places at
/// which it can begin; and the whole, with its padding.
fn base64_forms(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = Vec::new();
    for engine in [&STANDARD, &URL_SAFE] {
        forms.push(engine.encode(bytes).into_bytes());
        for before in 0..3 {
            let shifted: Vec<u8> = std::iter::repeat_n(0, before).chain(bytes.iter().copied()).collect();
            let encoded = engine.encode(&shifted).into_bytes();
            // A character holds six bits: the first ones hold bits of what came before, and the last
            // may hold bits of what comes next.
            let (first, end) = ((before * 8).div_ceil(6), shifted.len() * 8 / 6);
            forms.push(encoded[first..end].to_vec());
        }
    }
    forms
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUE: &[u8] = b"hunter2-\"quoted\"/plus+more?";

    fn redactor() -> Redactor {
        Redactor::of([("KEY", &SecretValue::new(VALUE))])
    }

    #[test]
    fn a_secret_is_found_however_it_is_printed() {
        let url_safe = URL_SAFE.encode(VALUE);
        let text = std::str::from_utf8(VALUE).unwrap();
        let json = serde_json::json!({ "key": text }).to_string();
        for printed in [
            text.to_owned(),
            json,
            format!("x{}y", hex::encode(VALUE)),
            hex::encode_upper(VALUE),
            STANDARD.encode(VALUE),
            url_safe.trim_end_matches('=').to_owned(),
            format!("https://example.com/?key={}", percent_encoded(VALUE)),
        ] {
            let redacted = redactor().text(&printed);
            assert!(redacted.contains("[secret:KEY]"), "{printed} became {redacted}");
            assert!(!redacted.contains("hunter2"), "{redacted}");
        }
    }

    #[test]
    fn base64_of_a_text_that_holds_a_secret_shows_none_of_its_inside() {
        for before in ["", "a", "ab", "user:"] {
            for after in ["", "b", "bc", " and so on"] {
                let encoded = STANDARD.encode([before.as_bytes(), VALUE, after.as_bytes()].concat());
                let redacted = redactor().text(&encoded);
                assert!(redacted.contains("[secret:KEY]"), "{before:?} {after:?}: {redacted}");
            }
        }
    }

    #[test]
    fn the_same_is_found_wherever_the_stream_is_cut() {
        let redactor = Redactor::of([("A", &SecretValue::new(*b"aaaaaaaaab")), ("B", &SecretValue::new(*b"aaaaaaaa"))]);
        let text = b"x aaaaaaaaaaab aaaaaaaaab aaaaaaa aaaaaaaa";
        let whole = redactor.bytes(text).into_owned();
        for first in 0..text.len() {
            for second in first..text.len() {
                let mut stream = RedactedStream::default();
                let mut shown = stream.push(&redactor, &text[..first]);
                shown.extend(stream.push(&redactor, &text[first..second]));
                shown.extend(stream.push(&redactor, &text[second..]));
                shown.extend(stream.finish(&redactor, false));
                assert_eq!(shown, whole, "cut at {first} and {second}");
            }
        }
        assert!(whole.ends_with(b"[secret:A] aaaaaaa [secret:B]"), "{}", String::from_utf8_lossy(&whole));
    }

    #[test]
    fn a_stream_that_was_cut_inside_a_secret_does_not_end_with_its_beginning() {
        let redactor = redactor();
        let mut stream = RedactedStream::default();
        assert_eq!(stream.push(&redactor, b"it is hunter2-"), b"it is ");
        assert_eq!(stream.finish(&redactor, true), b"");
    }

    #[test]
    fn lines_of_a_long_value_are_secrets_too() {
        let pem = b"-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nshort\n-----END KEY-----\n";
        let redactor = Redactor::of([("PEM", &SecretValue::new(*pem))]);
        assert_eq!(redactor.text("MIIEvQIBADANBgkqhkiG9w0BAQEFAASC"), "[secret:PEM]");
        assert_eq!(redactor.text("a short line"), "a short line");
    }

    #[test]
    fn without_secrets_nothing_is_touched() {
        assert!(matches!(Redactor::default().bytes(b"hunter2"), Cow::Borrowed(b"hunter2")));
        assert!(matches!(redactor().bytes(b"hunter"), Cow::Borrowed(_)));
        assert!(!format!("{:?}", redactor()).contains("hunter2"));
    }
}
