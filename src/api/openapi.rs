//! The API, described.

use actix_web::HttpResponse;
use actix_web::http::header;

const DOCUMENT: &str = include_str!("../../docs/openapi.json");

/// GET /openapi.json
pub async fn document() -> HttpResponse {
    HttpResponse::Ok().insert_header((header::CONTENT_TYPE, "application/json")).body(DOCUMENT)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::routes;
    use super::*;

    /// As OpenAPI writes a path: without the pattern of a parameter.
    fn plain(pattern: &str) -> String {
        pattern.replace(":.+}", "}")
    }

    #[test]
    fn the_document_has_exactly_the_paths_and_methods_there_are() {
        let document: serde_json::Value = serde_json::from_str(DOCUMENT).unwrap();
        let mut described = BTreeSet::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for method in methods.as_object().unwrap().keys().filter(|key| *key != "parameters") {
                described.insert(format!("{} {path}", method.to_uppercase()));
            }
        }
        let mut registered = BTreeSet::new();
        for path in routes::paths() {
            for method in path.methods() {
                // HEAD of what is a document is told where it matters: for artifacts.
                if method != actix_web::http::Method::HEAD || path.pattern.contains("/artifacts/{name") {
                    registered.insert(format!("{method} {}", plain(path.pattern)));
                }
            }
        }
        assert_eq!(described, registered);
    }

    #[test]
    fn every_operation_has_a_summary_and_every_reference_a_target() {
        let document: serde_json::Value = serde_json::from_str(DOCUMENT).unwrap();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap().iter().filter(|(key, _)| *key != "parameters") {
                assert!(operation["summary"].is_string(), "{method} {path}");
                assert!(operation["responses"].is_object(), "{method} {path}");
            }
        }
        let mut found = 0;
        check_references(&document, &document, &mut found);
        assert!(found > 10);
    }

    fn check_references(node: &serde_json::Value, document: &serde_json::Value, found: &mut usize) {
        match node {
            serde_json::Value::Object(fields) => {
                if let Some(target) = fields.get("$ref").and_then(|target| target.as_str()) {
                    let pointer = target.strip_prefix('#').unwrap();
                    assert!(document.pointer(pointer).is_some(), "{target}");
                    *found += 1;
                }
                fields.values().for_each(|value| check_references(value, document, found));
            }
            serde_json::Value::Array(items) => items.iter().for_each(|item| check_references(item, document, found)),
            _ => {}
        }
    }
}
