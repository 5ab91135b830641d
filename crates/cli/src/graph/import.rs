//! `blackstart graph import`: from another program's files to a file of a catalog.

use std::path::Path;

use blackstart_core::catalog::MAX_BYTES;
use blackstart_core::import::{Format, Import, Options, read};

use super::PARTIAL;
use crate::args::{GraphImport, ImportFormat};
use crate::diagnostics::{self, Texts};
use crate::output::Output;
use crate::plain::plain;
use crate::whole_file::{Readers, WholeFile};
use crate::{FAILED, catalog_files, finish};

pub(super) fn import(typed: &GraphImport, output: Output) -> u8 {
    let mut texts = Texts::default();
    let mut partial = false;
    let mut files = Vec::new();
    for path in &typed.files {
        match catalog_files::text(path) {
            Ok(text) => {
                let name = path.to_string_lossy().into_owned();
                texts.insert(name.clone(), text.clone());
                files.push((name, text));
            }
            Err(why) => {
                partial = true;
                let shown = plain(&path.to_string_lossy());
                output.error(&format!("cannot read {shown}: {}", plain(&why)));
            }
        }
    }
    if files.is_empty() {
        output.error("nothing that was named could be read");
        return FAILED;
    }
    let of: Vec<(&str, &str)> = files
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    let options = Options {
        names: typed.names.iter().cloned().collect(),
        cluster_domain: Some(typed.cluster_domain.clone()),
    };
    let reading = read(format(typed.format), &of, &options);
    output.say(&diagnostics::human(
        &reading.diagnostics,
        &texts,
        output.err,
    ));
    partial |= reading.partial;
    if partial {
        output.warning("the result is partial: see what is said above");
    }
    let code = if partial { PARTIAL } else { 0 };
    let text = reading.import.text();
    match &typed.out {
        None => finish(output, &text, code),
        Some(path) => write(path, &text, output).map_or(FAILED, |()| {
            let (services, needs) = reading.import.counts();
            let shown = plain(&path.to_string_lossy());
            output.say(&format!(
                "blackstart: wrote {services} services and {needs} needs to {shown}\n"
            ));
            code
        }),
    }
}

fn write(path: &Path, text: &str, output: Output) -> Option<()> {
    if text.len() > MAX_BYTES {
        let most = MAX_BYTES >> 20;
        output.error(&format!(
            "the result is larger than {most} MiB, more than a catalog reads from one file; import the files one by one"
        ));
        return None;
    }
    let shown = plain(&path.to_string_lossy());
    match std::fs::read(path) {
        Ok(there) if !std::str::from_utf8(&there).is_ok_and(Import::wrote) => {
            output.error(&format!(
                "cannot write {shown}: what is there was not written by an import; name another file, or remove it first"
            ));
            return None;
        }
        // Whatever else keeps it from being read is told when it cannot be written.
        _ => {}
    }
    let written = WholeFile::at(path, Readers::Everyone)
        .and_then(|file| file.replace(|out| out.write_all(text.as_bytes())));
    if let Err(error) = &written {
        output.error(&format!("cannot write {shown}: {error}"));
    }
    written.ok()
}

fn format(typed: ImportFormat) -> Format {
    match typed {
        ImportFormat::Backstage => Format::Backstage,
        ImportFormat::Jaeger => Format::Jaeger,
        ImportFormat::Otlp => Format::Otlp,
        ImportFormat::Kubernetes => Format::Kubernetes,
    }
}
