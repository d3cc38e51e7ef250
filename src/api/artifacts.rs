//! The files of a job: what it made, and what it was given.

use actix_web::http::header::{self, ETag, EntityTag, Header as _, IfNoneMatch};
use actix_web::{HttpRequest, HttpResponse, web};

use super::app::App;
use super::caller::{Caller, Read};
use super::params::{Id, Named, Params};
use super::problem::{Kind, Problem};
use super::view::{self, CODE, INPUT};
use crate::domain::{Digest, ExecutionRecord};

/// GET and HEAD /jobs/{id}/artifacts/{name}; the name may have slashes.
pub async fn download(
    caller: Caller<Read>,
    app: web::Data<App>,
    Id(id): Id,
    Named(name): Named,
    params: Params,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    params.done()?;
    let record = app.record(&caller, id).await?;
    let hash = hash_of(&record, &name).ok_or_else(|| {
        let shown: String = name.chars().take(100).collect();
        Problem::new(Kind::NotFound, format!("execution {id} has no artifact {shown:?}"))
    })?;
    let tag = EntityTag::new_strong(hash.to_string());
    if is_known(&request, &tag) {
        return Ok(HttpResponse::NotModified().insert_header(ETag(tag)).finish());
    }
    let bytes = app.blobs(vec![hash]).await?.remove(&hash).ok_or_else(|| {
        Problem::new(Kind::Gone, format!("the bytes of the artifact (sha256 {hash}) are no longer kept"))
    })?;
    Ok(HttpResponse::Ok()
        .insert_header(ETag(tag))
        .insert_header((header::CONTENT_TYPE, "application/octet-stream"))
        .insert_header((header::CONTENT_DISPOSITION, disposition(&name)))
        .insert_header((header::CACHE_CONTROL, "private, no-cache"))
        .body(bytes))
}

/// A job's own files win over what it was given; `_code.py` and `_input.json` are always its code
/// and its input.
fn hash_of(record: &ExecutionRecord, name: &str) -> Option<Digest> {
    let submitted = &record.submitted;
    match name {
        CODE => return Some(submitted.code),
        INPUT => return Some(submitted.input),
        _ => {}
    }
    let made = view::observed(record).map(|observed| observed.artifacts.as_slice()).unwrap_or_default();
    made.iter()
        .find(|made| made.name == name)
        .map(|made| made.hash)
        .or_else(|| submitted.files.iter().find(|file| file.name == name).map(|file| file.hash))
}

fn is_known(request: &HttpRequest, tag: &EntityTag) -> bool {
    match IfNoneMatch::parse(request) {
        Ok(IfNoneMatch::Any) => request.headers().contains_key(header::IF_NONE_MATCH),
        Ok(IfNoneMatch::Items(known)) => known.iter().any(|known| known.weak_eq(tag)),
        Err(_) => false,
    }
}

/// A name for the client's disk: the last part of the path, plain in `filename`, exact in
/// `filename*` (RFC 6266).
fn disposition(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    let plain: String =
        last.chars().map(|c| if c.is_ascii_alphanumeric() || "._- ".contains(c) { c } else { '_' }).collect();
    let mut exact = String::new();
    for byte in last.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' => exact.push(char::from(byte)),
            _ => exact.push_str(&format!("%{byte:02X}")),
        }
    }
    format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{exact}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_cannot_leave_its_header_or_its_folder() {
        assert_eq!(
            disposition("a/b/r\"e\r\nX: y\\é.txt"),
            "attachment; filename=\"r_e__X_ y__.txt\"; filename*=UTF-8''r%22e%0D%0AX%3A%20y%5C%C3%A9.txt"
        );
    }
}
