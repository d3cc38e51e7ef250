//! What this host's own pip is configured to: files and variables, as pip reads them.

use std::fs;
use std::path::{Path, PathBuf};

/// Where pip gets packages from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pip {
    pub index_url: Option<String>,
    pub extra_index_urls: Vec<String>,
    pub ca_bundle: Option<PathBuf>,
    pub proxy: Option<String>,
    pub wheel_dir: Option<PathBuf>,
}

impl Pip {
    /// Of this process's user and environment.
    pub fn of_process() -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let mut files: Vec<PathBuf> = vec!["/etc/xdg/pip/pip.conf".into(), "/etc/pip.conf".into()];
        if let Some(home) = std::env::home_dir() {
            files.push(home.join(".pip/pip.conf"));
            files.push(home.join(".config/pip/pip.conf"));
        }
        files.extend(variable("PIP_CONFIG_FILE").map(PathBuf::from));
        let texts: Vec<_> = files.iter().filter_map(|file| fs::read_to_string(file).ok()).collect();
        Self::read(&texts, variable)
    }

    /// Later texts win over earlier ones, and variables over texts.
    fn read(texts: &[String], variable: impl Fn(&str) -> Option<String>) -> Self {
        let setting = |key: &str| {
            let name = format!("PIP_{}", key.to_ascii_uppercase().replace('-', "_"));
            variable(&name).or_else(|| texts.iter().rev().find_map(|text| value_of(text, key)))
        };
        let any = |names: &[&str]| names.iter().find_map(|name| variable(name));
        let certificates = setting("cert").or_else(|| any(&["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"]));
        let proxies = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
        let links = setting("find-links").unwrap_or_default();
        Self {
            index_url: setting("index-url"),
            extra_index_urls: words(&setting("extra-index-url").unwrap_or_default()),
            ca_bundle: certificates.map(PathBuf::from).filter(|file| file.is_file()),
            proxy: setting("proxy").or_else(|| any(&proxies)),
            wheel_dir: words(&links).into_iter().map(PathBuf::from).find(|folder| folder.is_dir()),
        }
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// The value of a key in a section that concerns downloads; lines that are indented go on.
fn value_of(text: &str, key: &str) -> Option<String> {
    let mut found: Option<String> = None;
    let (mut concerns_us, mut goes_on) = (false, false);
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if goes_on && line.starts_with([' ', '\t']) {
            if let Some(value) = &mut found {
                value.push(' ');
                value.push_str(trimmed);
            }
            continue;
        }
        goes_on = false;
        if let Some(section) = trimmed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            concerns_us = ["global", "install", "download"].contains(&section.trim());
            continue;
        }
        if let Some((name, value)) = trimmed.split_once(['=', ':'])
            && concerns_us
            && name.trim().replace('_', "-") == key
        {
            found = Some(value.trim().to_owned());
            goes_on = true;
        }
    }
    found.filter(|value| !value.is_empty())
}

/// Whether a path can be what it is configured as.
pub(super) fn is_absolute_or_empty(path: &Path) -> bool {
    path.as_os_str().is_empty() || path.is_absolute()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_files_win_over_earlier_ones_and_variables_over_files() {
        let folder = tempfile::tempdir().unwrap();
        let certificates = folder.path().join("ca.pem");
        fs::write(&certificates, "").unwrap();
        let texts = [
            "[global]\nindex-url = https://one.example/simple\nproxy = http://p:1\n".to_owned(),
            format!(
                "# mine\n[install]\nindex_url: https://two.example/simple\nextra-index-url =\n  https://a\n  https://b\n\
                 [global]\ncert = {}\n[freeze]\nproxy = http://wrong\n",
                certificates.display()
            ),
        ];
        let read = Pip::read(&texts, |_| None);
        assert_eq!(read.index_url.as_deref(), Some("https://two.example/simple"));
        assert_eq!(read.extra_index_urls, ["https://a", "https://b"]);
        assert_eq!(read.proxy.as_deref(), Some("http://p:1"));
        assert_eq!(read.ca_bundle, Some(certificates));
        let links = folder.path().to_str().unwrap().to_owned();
        let read = Pip::read(&texts, |name| match name {
            "PIP_INDEX_URL" => Some("https://three.example/simple".to_owned()),
            "PIP_FIND_LINKS" => Some(format!("https://not-a-folder {links}")),
            "HTTPS_PROXY" => Some("http://q:1".to_owned()),
            _ => None,
        });
        assert_eq!(read.index_url.as_deref(), Some("https://three.example/simple"));
        assert_eq!(read.wheel_dir.as_deref(), Some(folder.path()));
        assert_eq!(read.proxy.as_deref(), Some("http://p:1"), "what pip itself is told comes first");
    }

    #[test]
    fn a_host_without_any_settings_has_none() {
        assert_eq!(Pip::read(&[], |_| None), Pip::default());
    }
}
