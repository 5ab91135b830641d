//! The log for those who look for a defect: off unless `BLACKSTART_LOG` is set.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;

/// Sets it up as the environment says. The error says what is wrong.
pub(crate) fn start() -> Result<(), String> {
    let Ok(filter) = std::env::var("BLACKSTART_LOG") else {
        return Ok(());
    };
    if filter.is_empty() {
        return Ok(());
    }
    let filter = EnvFilter::try_new(&filter).map_err(|error| {
        format!("cannot read BLACKSTART_LOG: {error}; try BLACKSTART_LOG=debug")
    })?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false);
    match std::env::var_os("BLACKSTART_LOG_FILE") {
        None => log.with_writer(std::io::stderr).init(),
        Some(path) => {
            // Arguments of processes may be in it: for its owner alone.
            let file = OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o600)
                .open(&path)
                .map_err(|error| {
                    format!(
                        "cannot open BLACKSTART_LOG_FILE {}: {error}",
                        path.display()
                    )
                })?;
            log.with_writer(Mutex::new(file)).init();
        }
    }
    Ok(())
}
