//! `blackstart graph`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::Format;

/// Say which service needs which, prove the circles, and order the recovery.
///
/// The graph is made of a catalog, of reports of runs, or of both: what files declare, and what deployments
/// were seen to reach for. Nothing is run or looked up, and no privilege is needed.
#[derive(Debug, Subcommand)]
pub(crate) enum Graph {
    Show(GraphShow),
    Loops(GraphLoops),
    Order(GraphOrder),
    Impact(GraphImpact),
    Check(GraphCheck),
    Import(GraphImport),
    Export(GraphExport),
    /// Print the JSON Schema of a file of a catalog, by which an editor completes and checks one.
    Schema,
}

/// What a graph is made of.
#[derive(Debug, Args)]
pub(crate) struct GraphOf {
    /// The services: a directory with their files, or one such file
    ///
    /// Where it is not given, the catalog is where BLACKSTART_CATALOG says, or else `catalog` in the working
    /// directory, or else /etc/blackstart/catalog; which of these is told.
    #[arg(long, value_name = "DIR")]
    pub(crate) catalog: Option<PathBuf>,

    /// Reports of runs, or directories with such
    ///
    /// What a run reached for counts as a need of the service that it deployed. Takes all words up to the
    /// next flag: names of services go before it.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) runs: Vec<PathBuf>,
}

/// List the services with what each needs, and how that is known.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_GRAPH)]
pub(crate) struct GraphShow {
    #[command(flatten)]
    pub(crate) of: GraphOf,

    /// How to show the result (on standard output)
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) format: Format,

    /// Only these services
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
}

/// List the circles that deployments close: a shortest one for each deployed and contacted service.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_GRAPH)]
pub(crate) struct GraphLoops {
    #[command(flatten)]
    pub(crate) of: GraphOf,

    /// Protect this service; may be given more than once
    ///
    /// With protected services, a circle is transient if one of them lies between on every path.
    #[arg(long, value_name = "SERVICE")]
    pub(crate) protect: Vec<String>,

    /// How to show the result (on standard output)
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) format: Format,
}

/// Say in which order everything comes back from black, and what cannot start.
///
/// Levels: each service needs, to be deployed and to run, only services of the levels before its own. For
/// those that cannot start without each other, which needs to cut.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_GRAPH)]
pub(crate) struct GraphOrder {
    #[command(flatten)]
    pub(crate) of: GraphOf,

    /// How to show the result (on standard output)
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) format: Format,
}

/// Say what an outage does: which deployments still work, which fail, which nobody knows of.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_GRAPH)]
pub(crate) struct GraphImpact {
    #[command(flatten)]
    pub(crate) of: GraphOf,

    /// How to show the result (on standard output)
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) format: Format,

    /// What is down
    #[arg(value_name = "SERVICE", required = true)]
    pub(crate) down: Vec<String>,
}

/// Fail on findings that are new, for use in CI.
///
/// A baseline is a file of ids of findings that are known, one in each line; what follows an id is for
/// people.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_GRAPH_CHECK)]
pub(crate) struct GraphCheck {
    #[command(flatten)]
    pub(crate) of: GraphOf,

    /// Protect this service; may be given more than once
    #[arg(long, value_name = "SERVICE")]
    pub(crate) protect: Vec<String>,

    /// The findings that are known
    #[arg(long, value_name = "FILE")]
    pub(crate) baseline: Option<PathBuf>,

    /// Write the findings of now to the baseline, and exit with 0
    #[arg(long, requires = "baseline")]
    pub(crate) update_baseline: bool,

    /// Only new findings as bad as this, or worse, fail; milder ones are listed all the same
    #[arg(long, value_name = "SEVERITY", default_value = "info")]
    pub(crate) fail_on: FailOn,

    /// Write SARIF 2.1.0 here
    #[arg(long, value_name = "FILE")]
    pub(crate) sarif: Option<PathBuf>,

    /// Write a summary in Markdown here
    #[arg(long, value_name = "FILE")]
    pub(crate) markdown: Option<PathBuf>,

    /// Print annotations as GitHub Actions reads them
    ///
    /// On standard output; beside `--format json` on standard error, which GitHub reads as well.
    #[arg(long)]
    pub(crate) annotations: bool,

    /// How to show the result (on standard output)
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) format: Format,
}

const AFTER_GRAPH_CHECK: &str = "\
Examples:
    blackstart graph check --catalog catalog --runs reports --baseline graph.baseline
    blackstart graph check --catalog catalog --sarif graph.sarif --annotations

Exit codes:
  0    nothing new
  1    new findings, or a file that could not be read in full
  125  typed wrongly, or there is nothing to look at";

/// Take services and needs from what another program knows, as a file of a catalog.
///
/// The file is JSON, which is YAML too: put it below the catalog's directory. What people wrote there goes
/// before it; a service of the same name gains what was found of it. Each need keeps the place that it was
/// found at, as its evidence.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_GRAPH_IMPORT)]
pub(crate) struct GraphImport {
    /// Write it here instead of on standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,

    /// Call a service by another name than the files do; may be given more than once
    #[arg(long = "as", value_name = "OLD=NEW", value_parser = renamed)]
    pub(crate) names: Vec<(String, String)>,

    /// The domain of the Kubernetes cluster
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub(crate) cluster_domain: String,

    /// What the files are
    #[arg(value_name = "FORMAT")]
    pub(crate) format: ImportFormat,

    /// The files
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
}

/// `OLD=NEW`
fn renamed(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((old, new)) if !old.is_empty() && !new.is_empty() => Ok((old.into(), new.into())),
        _ => Err("write OLD=NEW: the name that the file has, and the catalog's".to_owned()),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ImportFormat {
    /// Entities, as in `catalog-info.yaml`; the annotations `blackstart.dev/provides` and `blackstart.dev/tier` count
    Backstage,
    /// Dependencies as JSON, what `/api/dependencies` answers
    Jaeger,
    /// Metrics of the OpenTelemetry Collector's service graph connector, as OTLP JSON
    Otlp,
    /// Services, what `kubectl get services -A -o json` prints
    Kubernetes,
}

const AFTER_GRAPH_IMPORT: &str = "\
Examples:
    kubectl get services -A -o json >services.json
    blackstart graph import kubernetes services.json --out catalog/kubernetes.yaml
    blackstart graph import jaeger dependencies.json --as db-main=mysql --out catalog/jaeger.yaml

Exit codes:
  0    done
  1    done, with a file that could not be read in full: the result is partial
  125  typed wrongly, or nothing could be read or written";

/// Write the graph for another program.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_GRAPH)]
pub(crate) struct GraphExport {
    #[command(flatten)]
    pub(crate) of: GraphOf,

    /// In which language
    #[arg(long, value_name = "LANGUAGE", default_value = "json")]
    pub(crate) to: Language,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Language {
    /// JSON, with all evidence; versioned
    Json,
    /// Graphviz
    Dot,
    /// Mermaid
    Mermaid,
    /// A page by itself, for a browser
    Html,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FailOn {
    /// Everything that is new
    Info,
    /// What is worth mending
    Warning,
    /// What broke something, or will
    Error,
}

const AFTER_GRAPH: &str = "\
Examples:
    blackstart graph loops --catalog catalog --runs reports/*.json
    blackstart graph impact github --catalog catalog --runs reports
    blackstart graph order --catalog catalog --format json | jq .levels

Exit codes:
  0    done
  1    done, with a file that could not be read in full: the result is partial
  125  typed wrongly, or there is nothing to look at";
