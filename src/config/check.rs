//! The bounds of every value, and what values demand of one another.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::bounds::Bounds;
use super::check_reach::{check_gpu, check_network};
use super::concurrency::check_placement;
use super::error::Error;
use super::job_type::JobType;
use super::pip::is_absolute_or_empty;
use super::settings::{Config, Limits};
use super::shared_code::SharedCode;
use crate::domain::{Normaliser, Requirement};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const DAY: f64 = 86_400.0;

fn is_printable(c: char) -> bool {
    !c.is_control()
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

fn is_image_character(c: char) -> bool {
    is_word(c) || matches!(c, '/' | ':' | '@')
}

impl Config {
    /// Whether the server may listen on `host`: addresses beyond loopback demand API keys.
    /// Both the configured address and one from a flag must pass here.
    ///
    /// # Errors
    /// [`Error::OpenBind`].
    pub fn check_bind(&self, host: IpAddr) -> Result<(), Error> {
        if host.to_canonical().is_loopback() || !self.api_keys.is_empty() {
            return Ok(());
        }
        Err(Error::OpenBind(host))
    }

    /// What is wrong with the values: dotted path, and what to say of it.
    pub(super) fn check(&self) -> Vec<(String, String)> {
        let mut bounds = Bounds::default();
        self.check_top(&mut bounds);
        self.check_server(&mut bounds);
        self.check_engines(&mut bounds);
        self.check_limits(&mut bounds);
        self.check_queue(&mut bounds);
        self.check_concurrency(&mut bounds);
        self.check_audit(&mut bounds);
        self.check_retention(&mut bounds);
        self.check_blobs(&mut bounds);
        self.check_build(&mut bounds);
        for (name, job_type) in &self.job_types {
            check_job_type(&mut bounds, &format!("job_types.{name}"), job_type, &self.limits);
        }
        bounds.found
    }

    fn check_top(&self, bounds: &mut Bounds) {
        bounds.number("max_workers", self.max_workers, 1, 1_024);
        bounds.number("max_queue_size", self.max_queue_size, 1, 10_000_000);
        bounds.seconds(
            "default_timeout",
            self.default_timeout,
            self.limits.min_timeout.as_secs_f64(),
            self.limits.max_timeout.as_secs_f64(),
        );
        bounds.text("container_runtime", &self.container_runtime, 64, is_word);
        bounds.require(!self.container_runtime.is_empty(), "container_runtime", || {
            "must be auto, runc, runsc or another runtime's name".to_owned()
        });
        let url = self.database_url.expose();
        let known = ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme));
        bounds.require(url.is_empty() || known, "database_url", || {
            "must begin with postgres:// or be empty for the development cluster".to_owned()
        });
        bounds.require(!(self.production_mode && url.is_empty()), "database_url", || {
            "must name a PostgreSQL when production_mode is true".to_owned()
        });
        bounds.text("log.level", &self.log.level, 1_024, is_printable);
        if let Err(error) = crate::telemetry::filter(&self.log.level) {
            bounds.say("log.level", error.to_string());
        }
    }

    fn check_server(&self, bounds: &mut Bounds) {
        bounds.number("server.http_workers", self.server.http_workers, 1, 256);
        bounds.seconds("server.shutdown_grace", self.server.shutdown_grace, 0.0, 3_600.0);
        let rate = &self.rate_limit;
        bounds.number("rate_limit.requests_per_minute", rate.requests_per_minute, 0, 60_000_000);
        bounds.number("rate_limit.burst", rate.burst, 1, 1_000_000);

        bounds.count("api_keys", self.api_keys.len(), 1_000);
        let mut names = BTreeSet::new();
        for (index, key) in self.api_keys.iter().enumerate() {
            let at = format!("api_keys[{index}]");
            bounds.text(&format!("{at}.name"), &key.name, 64, is_printable);
            bounds.require(names.insert(&key.name), &format!("{at}.name"), || format!("{:?} is used twice", key.name));
            bounds.require(!key.name.is_empty(), &format!("{at}.name"), || "is missing".to_owned());
            bounds.text(&format!("{at}.tenant"), &key.tenant, 64, is_word);
            bounds.require(!key.tenant.is_empty(), &format!("{at}.tenant"), || "must not be empty".to_owned());
            let hash = key.sha256.expose();
            let is_hash = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            bounds.require(is_hash, &format!("{at}.sha256"), || {
                "must be the key's SHA-256, 64 lowercase hex digits (not the key itself)".to_owned()
            });
            bounds.require(!key.scopes.is_empty(), &format!("{at}.scopes"), || {
                "must name at least one of submit, read, admin".to_owned()
            });
        }
    }

    fn check_engines(&self, bounds: &mut Bounds) {
        bounds.text("docker.host", &self.docker.host, 1_024, is_printable);
        bounds.text("docker.image", &self.docker.image, 255, is_image_character);
        bounds.require(!self.docker.image.is_empty(), "docker.image", || "must not be empty".into());
        bounds.seconds("docker.connect_timeout", self.docker.connect_timeout, 0.1, 60.0);
        bounds.seconds("docker.pull_timeout", self.docker.pull_timeout, 1.0, 3_600.0);
        for (key, path) in [("native.python", &self.native.python), ("native.root", &self.native.root)] {
            bounds.require(path.as_os_str().is_empty() || path.is_absolute(), key, || {
                format!("{} must be an absolute path or empty", path.display())
            });
        }
        check_pool(bounds, "pool", self.pool.min_idle, self.pool.max_idle);
        bounds.seconds("pool.max_age", self.pool.max_age, 10.0, DAY);
    }

    fn check_limits(&self, bounds: &mut Bounds) {
        let limits = &self.limits;
        bounds.bytes("limits.max_code_bytes", limits.max_code_bytes, KIB, 16 * MIB);
        bounds.bytes("limits.max_input_bytes", limits.max_input_bytes, KIB, 256 * MIB);
        bounds.bytes("limits.max_body_bytes", limits.max_body_bytes, 4 * KIB, 512 * MIB);
        bounds.bytes("limits.max_stdout_bytes", limits.max_stdout_bytes, KIB, 64 * MIB);
        bounds.bytes("limits.max_stderr_bytes", limits.max_stderr_bytes, KIB, 64 * MIB);
        bounds.bytes("limits.max_artifact_bytes", limits.max_artifact_bytes, KIB, GIB);
        bounds.bytes("limits.max_artifacts_total_bytes", limits.max_artifacts_total_bytes, KIB, 4 * GIB);
        bounds.number("limits.max_artifacts", limits.max_artifacts, 0, 10_000);
        bounds.number("limits.max_files", limits.max_files, 0, 10_000);
        bounds.number("limits.max_requirements", limits.max_requirements, 0, 1_000);
        bounds.number("limits.max_batch", limits.max_batch, 1, 10_000);
        bounds.seconds("limits.min_timeout", limits.min_timeout, 0.001, DAY);
        bounds.seconds("limits.max_timeout", limits.max_timeout, 0.001, DAY);
        bounds.seconds("limits.min_startup_timeout", limits.min_startup_timeout, 0.1, 3_600.0);
        bounds.seconds("limits.max_startup_timeout", limits.max_startup_timeout, 0.1, 3_600.0);
        bounds.require(limits.min_timeout <= limits.max_timeout, "limits.min_timeout", || {
            "must not exceed limits.max_timeout".to_owned()
        });
        bounds.require(limits.min_startup_timeout <= limits.max_startup_timeout, "limits.min_startup_timeout", || {
            "must not exceed limits.max_startup_timeout".to_owned()
        });
        bounds.require(
            limits.max_code_bytes.saturating_add(limits.max_input_bytes) <= limits.max_body_bytes,
            "limits.max_body_bytes",
            || "must hold limits.max_code_bytes and limits.max_input_bytes together".to_owned(),
        );
        bounds.require(
            limits.max_artifact_bytes <= limits.max_artifacts_total_bytes,
            "limits.max_artifact_bytes",
            || "must not exceed limits.max_artifacts_total_bytes".to_owned(),
        );

        let container = &self.container_limits;
        bounds.number("container_limits.nofile_soft", container.nofile_soft, 64, 65_536);
        bounds.number("container_limits.pids", container.pids, 4, 32_768);
        bounds.bytes("container_limits.file_size", container.file_size, MIB, 64 * GIB);
        bounds.bytes("container_limits.tmp_size", container.tmp_size, MIB, 64 * GIB);
        bounds.bytes("container_limits.output_size", container.output_size, MIB, 64 * GIB);
        bounds.number("container_limits.inodes", container.inodes, 64, 10_000_000);
    }

    fn check_queue(&self, bounds: &mut Bounds) {
        bounds.number("queue.claim_batch", self.queue.claim_batch, 1, 1_000);
        bounds.seconds("queue.poll_interval", self.queue.poll_interval, 0.01, 60.0);
        bounds.seconds("leases.heartbeat", self.leases.heartbeat, 0.1, 60.0);
        bounds.seconds("leases.dead_after", self.leases.dead_after, 1.0, 600.0);
        bounds.seconds("leases.hung_after", self.leases.hung_after, 0.1, 3600.0);
        bounds.require(self.leases.dead_after >= self.leases.heartbeat.saturating_mul(3), "leases.dead_after", || {
            "must be at least three times leases.heartbeat, or one late beat loses every job".to_owned()
        });
        self.retry.check(bounds);
        self.schedules.check(bounds);
    }
}

impl Config {
    fn check_build(&self, bounds: &mut Bounds) {
        let build = &self.build;
        bounds.seconds("build.timeout", build.timeout, 10.0, DAY);
        bounds.bytes("build.memory", build.memory, 128 * MIB, 1_024 * GIB);
        bounds.bytes("build.max_size", build.max_size, MIB, 1_024 * GIB);
        bounds.bytes("build.log_size", build.log_size, KIB, 64 * MIB);
        bounds.bytes("build.disk_budget", build.disk_budget, 0, 1_024 * 1_024 * GIB);
        bounds.bytes("build.wheel_cache", build.wheel_cache, 0, 1_024 * GIB);
        bounds.text("build.network", &build.network, 64, is_word);
        bounds.require(!build.network.is_empty(), "build.network", || {
            "must be bridge, none or another network of the Docker Engine".to_owned()
        });
        let index = build.index_url.expose();
        let is_web = index.starts_with("https://") || index.starts_with("http://");
        bounds.require(index.is_empty() || is_web, "build.index_url", || {
            "must be an http or https URL, or empty for what the host's pip has".to_owned()
        });
        for (key, path) in [("build.ca_bundle", &build.ca_bundle), ("build.wheel_dir", &build.wheel_dir)] {
            bounds.require(is_absolute_or_empty(path), key, || {
                format!("{} must be an absolute path or empty", path.display())
            });
            bounds.require(path.as_os_str().is_empty() || path.exists(), key, || {
                format!("{} does not exist", path.display())
            });
        }
    }

    fn check_audit(&self, bounds: &mut Bounds) {
        let audit = &self.audit;
        bounds.number("audit.seal_every_events", audit.seal_every_events, 1, 100_000);
        bounds.seconds("audit.seal_every", audit.seal_every, 0.1, DAY);
        let secrets = &self.secrets;
        let key = secrets.key.expose();
        let is_key = key.is_empty() || key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit());
        bounds.require(is_key, "secrets.key", || {
            "must be 64 hexadecimal digits: make it with openssl rand -hex 32".to_owned()
        });
        let file = &secrets.key_file;
        bounds.require(file.as_os_str().is_empty() || file.is_absolute(), "secrets.key_file", || {
            format!("{} must be an absolute path or empty", file.display())
        });
        bounds.require(key.is_empty() || file.as_os_str().is_empty(), "secrets.key_file", || {
            "must be empty where secrets.key is given".to_owned()
        });
        let key = &audit.signing_key_file;
        bounds.require(key.as_os_str().is_empty() || key.is_absolute(), "audit.signing_key_file", || {
            format!("{} must be an absolute path or empty", key.display())
        });
        bounds.require(!(self.production_mode && key.as_os_str().is_empty()), "audit.signing_key_file", || {
            "must name a key when production_mode is true; make one with tako-vm audit keygen".to_owned()
        });
        bounds.count("audit.trusted_key_files", audit.trusted_key_files.len(), 100);
        for (index, path) in audit.trusted_key_files.iter().enumerate() {
            bounds.require(path.is_absolute(), &format!("audit.trusted_key_files[{index}]"), || {
                format!("{} must be an absolute path", path.display())
            });
        }
    }
}

fn check_pool(bounds: &mut Bounds, at: &str, min_idle: u32, max_idle: u32) {
    bounds.number(&format!("{at}.min_idle"), min_idle, 0, 256);
    bounds.number(&format!("{at}.max_idle"), max_idle, 0, 256);
    bounds.require(min_idle <= max_idle, &format!("{at}.min_idle"), || format!("must not exceed {at}.max_idle"));
}

/// What is wrong with a job type; `at` is the path before its fields.
pub(super) fn check_job_type(bounds: &mut Bounds, at: &str, job_type: &JobType, limits: &Limits) {
    let key = |field: &str| format!("{at}.{field}");
    let name = job_type.name.as_bytes();
    let is_name = (1..=64).contains(&name.len())
        && name[0].is_ascii_alphanumeric()
        && name.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(b));
    bounds.require(is_name, &key("name"), || {
        format!("{:?} must be 1 to 64 of a-z, 0-9, - and _, a letter or digit first", job_type.name)
    });
    bounds.require(is_python_version(&job_type.python_version), &key("python_version"), || {
        format!("{:?} must be like \"3.11\", 3.8 to 3.99", job_type.python_version)
    });
    bounds.count(&key("requirements"), job_type.requirements.len(), 1_000);
    for (index, requirement) in job_type.requirements.iter().enumerate() {
        let key = format!("{at}.requirements[{index}]");
        // An option there would speak to pip, not name a package.
        if let Err(error) = Requirement::parse(requirement) {
            bounds.say(&key, error.to_string());
        }
    }
    if let Some(image) = &job_type.base_image {
        bounds.text(&key("base_image"), image, 255, is_image_character);
        bounds.require(image.starts_with(|c: char| c.is_ascii_alphanumeric()), &key("base_image"), || {
            format!("{image:?} is not an image reference")
        });
    }
    if let Some(fault) = job_type.shared_code.as_ref().and_then(SharedCode::fault) {
        bounds.say(&key("shared_code"), fault);
    }
    bounds.count(&key("environment"), job_type.environment.len(), 256);
    for (variable, value) in &job_type.environment {
        let key = format!("{at}.environment.{variable}");
        let is_variable = variable.len() <= 128
            && variable.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && variable.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        bounds.require(is_variable, &key, || "is not the name of a variable".to_owned());
        let value = value.expose();
        bounds.require(value.len() <= 32_768 && !value.contains('\0'), &key, || {
            "must be at most 32k without NUL".to_owned()
        });
    }
    bounds.bytes(&key("memory_limit"), job_type.memory_limit, 16 * MIB, 1_024 * GIB);
    bounds.number(&key("cpu_limit"), job_type.cpu_limit, 0.05, 256.0);
    bounds.seconds(
        &key("timeout"),
        job_type.timeout,
        limits.min_timeout.as_secs_f64(),
        limits.max_timeout.as_secs_f64(),
    );
    bounds.seconds(
        &key("startup_timeout"),
        job_type.startup_timeout,
        limits.min_startup_timeout.as_secs_f64(),
        limits.max_startup_timeout.as_secs_f64(),
    );
    check_network(bounds, &key("network"), &job_type.network);
    check_gpu(bounds, &key("gpu"), &job_type.gpu);
    bounds.count(&key("preload"), job_type.preload.len(), 100);
    for (index, module) in job_type.preload.iter().enumerate() {
        let is_module = module.split('.').all(|part| {
            part.starts_with(|c: char| c.is_alphabetic() || c == '_')
                && part.chars().all(|c| c.is_alphanumeric() || c == '_')
        });
        bounds.require(is_module && module.len() <= 256, &format!("{at}.preload[{index}]"), || {
            format!("{module:?} is not the name of a module")
        });
    }
    if let Some(pool) = job_type.pool {
        check_pool(bounds, &key("pool"), pool.min_idle, pool.max_idle);
    }
    if let Some(retry) = &job_type.retry {
        retry.check(bounds, &key("retry"));
    }
    if let Some(concurrency) = job_type.concurrency {
        bounds.number(&key("concurrency"), concurrency, 1, 1_024);
    }
    check_placement(bounds, &key("placement"), &job_type.placement);
    bounds.number(&key("image_retention.keep_versions"), job_type.image_retention.keep_versions, 1, 1_000);
    bounds.number(&key("image_retention.keep_days"), job_type.image_retention.keep_days, 0, 36_500);
    bounds.count(&key("replay.normalise"), job_type.replay.normalise.len(), 32);
    for (index, normalise) in job_type.replay.normalise.iter().enumerate() {
        let key = format!("{at}.replay.normalise[{index}]");
        let rule = normalise.rule();
        bounds.text(&key, &rule, 512, is_printable);
        if let Err(error) = Normaliser::of(&rule) {
            bounds.say(&key, error.to_string());
        }
    }
}

fn is_python_version(text: &str) -> bool {
    let minor = text.strip_prefix("3.").filter(|minor| !minor.starts_with('0'));
    minor.and_then(|minor| minor.parse::<u8>().ok()).is_some_and(|minor| (8..=99).contains(&minor))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{decode, units};
    use super::*;

    /// Dotted paths of every number and every size of the default configuration.
    fn measurable(value: &Value, at: &str, found: &mut Vec<(String, bool)>) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    measurable(value, &format!("{at}/{key}"), found);
                }
            }
            Value::Number(_) => found.push((at.to_owned(), false)),
            Value::String(text) if units::bytes::parse(text).is_some() => {
                found.push((at.to_owned(), true));
            }
            _ => {}
        }
    }

    #[test]
    fn every_number_and_size_is_bounded_above_and_below() {
        let mut config = Config::default();
        config.job_types.retain(|name, _| name == "default");
        let mut default = serde_json::to_value(&config).unwrap();
        default["job_types"]["default"]["gpu"]["count"] = json!(1);
        default["job_types"]["default"]["pool"] = json!({"min_idle": 0, "max_idle": 1});
        default["job_types"]["default"]["retry"] = json!({"max_attempts": 1});
        default["job_types"]["default"]["concurrency"] = json!(1);
        let mut found = Vec::new();
        measurable(&default, "", &mut found);
        assert!(found.len() > 40, "{}", found.len());
        for (pointer, is_size) in found {
            let absurd = if is_size { json!("9999999g") } else { json!(4_000_000_000_u32) };
            for value in [absurd, json!(-1)] {
                let mut given = default.clone();
                *given.pointer_mut(&pointer).unwrap() = value.clone();
                let key = pointer[1..].replace('/', ".");
                let Err(found) = decode::config(given) else { panic!("{key}: {value} was taken") };
                assert!(found.iter().any(|(at, _)| *at == key), "{key}: {value}: {found:?}");
            }
        }
    }

    #[test]
    fn a_message_names_the_value_and_its_bounds() {
        let given = json!({"container_limits": {"nofile_soft": 12}, "limits": {"max_code_bytes": "1g"}});
        let found = decode::config(given).unwrap_err();
        let message = |key: &str| &found.iter().find(|(at, _)| at == key).unwrap().1;
        assert_eq!(message("container_limits.nofile_soft"), "12 is out of bounds (64 to 65536)");
        assert_eq!(message("limits.max_code_bytes"), "1g is out of bounds (1k to 16m)");
    }

    #[test]
    fn an_address_beyond_loopback_needs_a_key() {
        let mut config = Config::default();
        for host in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
            assert!(config.check_bind(host.parse().unwrap()).is_ok(), "{host}");
        }
        for host in ["0.0.0.0", "::", "10.0.0.1", "::ffff:10.0.0.1"] {
            assert!(config.check_bind(host.parse().unwrap()).is_err(), "{host}");
        }
        config.api_keys.push(Default::default());
        assert!(config.check_bind("0.0.0.0".parse().unwrap()).is_ok());
    }

    #[test]
    fn a_requirement_cannot_be_an_option_of_pip() {
        for bad in ["--index-url=http://evil", "-r /etc/passwd", "", "numpy\nRUN evil", "../x"] {
            let given = json!({"job_types": {"mine": {"requirements": [bad]}}});
            assert!(decode::config(given).is_err(), "{bad:?} was taken");
        }
        let given = json!({"job_types": {"mine": {"requirements": ["numpy>=2,<3", "httpx[http2]==0.28"]}}});
        decode::config(given).unwrap();
    }

    #[test]
    fn a_rule_of_replays_is_known_or_a_pattern_that_can_be_read() {
        let config = |rules: Value| decode::config(json!({"job_types": {"mine": {"replay": {"normalise": rules}}}}));
        let good = config(json!(["timestamps", {"regex": r"id=\d+"}])).unwrap();
        let rules: Vec<_> = good.job_types["mine"].replay.normalise.iter().map(|rule| rule.rule()).collect();
        assert_eq!(rules, ["timestamps", r"regex:id=\d+"]);
        for bad in [json!(["clocks"]), json!([{"regex": "("}]), json!([{"regexp": "x"}]), json!(vec!["uuids"; 33])] {
            assert!(config(bad.clone()).is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn a_network_names_its_hosts_and_a_gpu_its_devices_well() {
        let config = |job_type: Value| decode::config(json!({"job_types": {"mine": job_type}}));
        for good in [
            json!({"network": {"enabled": true, "allow": ["api.example.com", "*.example.org:443"]}}),
            json!({"network": {"enabled": false}}),
            json!({"gpu": {"enabled": true}}),
            json!({"gpu": {"enabled": true, "vendor": "amd", "count": 2}}),
            json!({"gpu": {"enabled": true, "device_ids": ["0", "GPU-4b6f1f0a-1c7e-4a0b-9f57-0123456789ab"]}}),
        ] {
            config(good.clone()).unwrap_or_else(|found| panic!("{good}: {found:?}"));
        }
        for (bad, key) in [
            (json!({"network": {"enabled": true}}), "network.allow"),
            (json!({"network": {"enabled": true, "allow": ["*"]}}), "network.allow[0]"),
            (json!({"network": {"enabled": true, "allow": ["a.example.com", "10.0.0.1"]}}), "network.allow[1]"),
            (json!({"network": {"enabled": true, "allow": ["localhost:80"]}}), "network.allow[0]"),
            (json!({"network": {"enabled": true, "allow": vec!["a.example.com"; 101]}}), "network.allow"),
            (json!({"network": {"open": true}}), "network.open"),
            (json!({"gpu": {"vendor": "intel"}}), "gpu.vendor"),
            (json!({"gpu": {"count": 0}}), "gpu.count"),
            (json!({"gpu": {"count": 1, "device_ids": ["0"]}}), "gpu.device_ids"),
            (json!({"gpu": {"device_ids": ["0", "0"]}}), "gpu.device_ids[1]"),
            (json!({"gpu": {"device_ids": ["../sda"]}}), "gpu.device_ids[0]"),
            (json!({"gpu": {"vendor": "amd", "device_ids": ["GPU-0"]}}), "gpu.device_ids[0]"),
        ] {
            let Err(found) = config(bad.clone()) else { panic!("{bad} was taken") };
            assert!(found.iter().any(|(at, _)| *at == format!("job_types.mine.{key}")), "{bad}: {found:?}");
        }
    }

    #[test]
    fn a_job_type_name_is_fit_for_an_image_reference() {
        for bad in ["", "Upper", "../x", "-x", "a b", "x@sha256"] {
            let given = json!({"job_types": {bad: {}}});
            assert!(decode::config(given).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn production_needs_a_database_and_a_signing_key() {
        let found = decode::config(json!({"production_mode": true})).unwrap_err();
        let keys: Vec<_> = found.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["database_url", "audit.signing_key_file"]);
    }
}
