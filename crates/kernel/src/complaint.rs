//! What libbpf complains of: its errors carry a number only.

use std::cell::RefCell;

use crate::{Error, ErrorKind};

thread_local! {
    /// The last one.
    static COMPLAINT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// What libbpf says while it works goes to the log, verifier's complaints included.
pub(crate) fn say(level: libbpf_rs::PrintLevel, text: String) {
    let text = text.trim_end();
    tracing::debug!(target: "libbpf", "{text}");
    // A refused program's whole log comes as one text: not that, but the line that names it.
    if level == libbpf_rs::PrintLevel::Warn && text.contains("failed") && text.lines().count() == 1
    {
        COMPLAINT.with(|last| {
            last.borrow_mut()
                .get_or_insert_with(|| text.trim_start_matches("libbpf: ").to_owned());
        });
    }
}

/// Why the programs were not loaded.
pub(crate) fn load_error(error: libbpf_rs::Error) -> Error {
    let kind = match error.kind() {
        libbpf_rs::ErrorKind::PermissionDenied if !rustix::process::geteuid().is_root() => {
            ErrorKind::Permission
        }
        libbpf_rs::ErrorKind::PermissionDenied | libbpf_rs::ErrorKind::InvalidInput => {
            ErrorKind::Verifier
        }
        _ => ErrorKind::Unsupported,
    };
    let doing = match COMPLAINT.with(RefCell::take) {
        Some(complaint) => format!("load the BPF programs ({complaint})"),
        None => "load the BPF programs".to_owned(),
    };
    Error::caused(kind, doing, error)
}
