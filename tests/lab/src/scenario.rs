//! One scenario: build the lab, run the test, judge the logs, keep what explains a failure.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::capture::Capture;
use crate::logs::{self, Watched};
use crate::node::Node;
use crate::process::Process;
use crate::spawner::Spawner;
use crate::topology::{self, Topology};
use crate::{failure, parts};

/// A set of nodes, joined, with a folder for their files.
#[derive(Debug)]
pub struct Lab {
    name: String,
    // Dropped before the nodes' folder, so that every process has ended when the folder is removed.
    nodes: Mutex<BTreeMap<String, Node>>,
    captures: Mutex<Vec<Capture>>,
    watched: Mutex<Vec<Watched>>,
    expected: Mutex<Vec<String>>,
    spawner: Arc<Spawner>,
    directory: TempDir,
}

/// Builds `topology`, runs `test` in it and fails when the test fails or a daemon logged a warning
/// that the test did not announce with [`Lab::expect_warning`].
///
/// What explains a failure is printed and kept in `target/lab-failures/NAME`; a panic is reported
/// the same way.
pub fn scenario(topology: Topology, test: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("scenario").replace("::", ".");
    if parts::check_privilege().is_err() {
        return parts::skip(&name, "namespaces need root; `make test` brings it").map(drop);
    }
    let lab = Lab::build(&name, topology)?;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        test(&lab)?;
        lab.judge_logs()
    }));
    if !matches!(outcome, Ok(Ok(()))) {
        failure::report(&lab);
    }
    outcome.unwrap_or_else(|panic| resume_unwind(panic))
}

impl Lab {
    /// Builds a lab outside [`scenario`]; the caller judges and cleans by dropping it.
    pub fn build(name: &str, topology: Topology) -> Result<Self> {
        parts::check_privilege()?;
        let lab = Self {
            name: name.to_owned(),
            nodes: Mutex::default(),
            captures: Mutex::default(),
            watched: Mutex::default(),
            expected: Mutex::default(),
            spawner: Arc::new(Spawner::start().context("starting the lab's processes")?),
            directory: tempfile::Builder::new().prefix("lab-").tempdir()?,
        };
        // Processes that give up root must still be able to read their files here.
        open_to_all(lab.directory.path())?;
        topology::lay_out(&lab, topology).context("laying out the lab")?;
        Ok(lab)
    }

    /// The scenario's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder of everything that this lab writes; it is removed with the lab.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The node called `name`.
    pub fn node(&self, name: &str) -> Result<Node> {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.get(name).cloned().with_context(|| format!("this topology has no {name}"))
    }

    /// All nodes, by name.
    pub fn nodes(&self) -> Vec<Node> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Adds a node with nothing but a loopback interface.
    pub fn add_node(&self, name: &str) -> Result<Node> {
        let directory = self.directory.path().join(name);
        let node = Node::create(&self.spawner, name, &directory)?;
        open_to_all(&directory)?;
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), node.clone());
        Ok(node)
    }

    /// Joins two nodes by a veth pair, both ends up.
    pub fn connect(&self, one: (&Node, &str), other: (&Node, &str)) -> Result<()> {
        let far = other.0.network_path();
        one.0.ip(&format!("link add {} type veth peer name {} netns {far}", one.1, other.1))?;
        one.0.ip(&format!("link set {} up", one.1))?;
        other.0.ip(&format!("link set {} up", other.1))
    }

    /// Starts one of the workspace's daemons on a node; its log is judged when the scenario ends.
    pub fn daemon(
        &self,
        node: &Node,
        name: &str,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<Process> {
        let process = node.command(parts::binary(name)?).args(arguments).spawn(name)?;
        self.judge(&process);
        Ok(process)
    }

    /// Judges this process's log as well when the scenario ends.
    pub fn judge(&self, process: &Process) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let path = process.log_path();
        if !watched.iter().any(|known| known.path == path) {
            watched.push(Watched { path: path.to_owned() });
        }
    }

    /// Announces that daemons may log warnings or errors that contain `text`.
    pub fn expect_warning(&self, text: &str) {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_owned());
    }

    /// Fails when a judged log has a warning or an error that was not announced.
    pub fn judge_logs(&self) -> Result<()> {
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        let unexpected = logs::unexpected(&watched, &expected)?;
        ensure!(
            unexpected.is_empty(),
            "unexpected warnings or errors in the log:\n{}",
            unexpected.join("\n")
        );
        Ok(())
    }

    /// Records the headers of what crosses an interface, up to 20,000 packets, kept when the
    /// scenario fails.
    pub fn capture(&self, node: &Node, interface: &str) -> Result<PathBuf> {
        let capture = Capture::start(node, interface)?;
        let path = capture.path().to_owned();
        self.captures.lock().unwrap_or_else(PoisonError::into_inner).push(capture);
        Ok(path)
    }

    /// Prints what each node saw and keeps it in `target/lab-failures/NAME`.
    pub fn report_failure(&self) {
        failure::report(self);
    }

    /// Ends the captures, so that their files are whole.
    pub(crate) fn end_captures(&self) {
        self.captures.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn open_to_all(directory: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755))?)
}
