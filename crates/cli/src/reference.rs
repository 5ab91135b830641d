//! The references, made from what they describe: the command line from its definitions, the report's
//! schema from its types, the policy's from a description of its keys.

use blackstart_core::{catalog, policy, report};

/// The report's JSON Schema.
pub(crate) fn report_schema() -> String {
    format!("{:#}\n", report::schema())
}

/// The JSON Schema of a policy file.
pub(crate) fn policy_schema() -> String {
    format!("{:#}\n", policy::schema())
}

/// The JSON Schema of what a webhook gets; lines of a file have parts of it.
#[cfg(test)]
pub(crate) fn told_schema() -> serde_json::Value {
    schemars::schema_for!(blackstart_core::notify::Told).to_value()
}

/// The JSON Schema of a file of a catalog.
pub(crate) fn catalog_schema() -> String {
    format!("{:#}\n", catalog::schema())
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::fs;
    use std::path::PathBuf;

    use clap::{Command, CommandFactory as _};

    use super::*;
    use crate::args::Typed;
    use crate::{answers, runs};

    /// Every command's long help, in the order of definition.
    fn command_line() -> String {
        let mut out = String::from(
            "# The command line\n\nMade from the program's own `--help`; do not edit. \
             `UPDATE_REFERENCES=1 cargo test -p blackstart` makes it anew.\n",
        );
        let mut root = Typed::command()
            .term_width(96)
            .disable_help_subcommand(true);
        root.build();
        describe(&root, "blackstart", &mut out);
        out
    }

    fn describe(command: &Command, path: &str, out: &mut String) {
        let help = command
            .clone()
            .term_width(96)
            .render_long_help()
            .to_string();
        let trimmed = help
            .lines()
            .map(str::trim_end)
            .collect::<Vec<_>>()
            .join("\n");
        let _ = write!(
            out,
            "\n## `{path}`\n\n```text\n{}\n```\n",
            trimmed.trim_end()
        );
        for below in command
            .get_subcommands()
            .filter(|below| below.get_name() != "help" && !below.is_hide_set())
        {
            describe(below, &format!("{path} {}", below.get_name()), out);
        }
    }

    fn holds(name: &str, expected: &str) {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("../../docs/reference")
            .join(name);
        if std::env::var_os("UPDATE_REFERENCES").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, expected).unwrap();
        }
        let found = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == expected,
            "docs/reference/{name} is stale; UPDATE_REFERENCES=1 cargo test -p blackstart makes it anew"
        );
    }

    #[test]
    fn the_command_line_is_described() {
        holds("cli.md", &command_line());
    }

    #[test]
    fn the_policy_is_described() {
        holds("policy.schema.json", &policy_schema());
    }

    #[test]
    fn the_catalog_is_described() {
        holds("catalog.schema.json", &catalog_schema());
    }

    #[test]
    fn the_report_is_described() {
        holds("report.schema.json", &report_schema());
    }

    #[test]
    fn what_others_are_told_is_described() {
        holds("notify.schema.json", &format!("{:#}\n", told_schema()));
    }

    #[test]
    fn what_a_program_is_answered_is_described() {
        let policy = answers::schemas().map(|(command, schema)| ("policy", command, schema));
        let runs = runs::schemas().map(|(command, schema)| ("runs", command, schema));
        for (group, command, schema) in policy.into_iter().chain(runs) {
            holds(
                &format!("{group}-{command}.schema.json"),
                &format!("{schema:#}\n"),
            );
        }
    }
}
