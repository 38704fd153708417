//! The history of this machine's forwarder: what was changed here, so that `causeway history` can
//! show it as the cause of what failed then.

use std::env;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

/// A forwarder that does not answer is not waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// The most bytes of an answer that are read.
const MAX_ANSWER: u64 = 4_096;

/// Notes what was done to a stack, where a forwarder runs on this machine that this user may ask.
pub fn note(stack: &str, what: &str) {
    for socket in sockets() {
        // Best effort: a machine without a forwarder has no history either.
        if ask(&socket, stack, what).is_ok() {
            return;
        }
    }
}

/// Where a forwarder listens, the user's own first; those of other users are left alone.
fn sockets() -> Vec<PathBuf> {
    let folder = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")));
    let own = [folder("XDG_RUNTIME_DIR"), home].into_iter().flatten();
    let machine = ["/run/causeway-forwarder", "/var/lib/causeway-forwarder", "/usr/local/var/causeway"];
    let all = own.map(|folder| folder.join("causeway")).chain(machine.map(PathBuf::from));
    let user = rustix::process::geteuid().as_raw();
    let is_sure = |folder: &PathBuf| {
        let owner = folder.metadata().map(|metadata| metadata.uid());
        owner.is_ok_and(|owner| user == 0 || owner == user || owner == 0)
    };
    all.filter(is_sure).map(|folder| folder.join("forwarder.sock")).collect()
}

fn ask(socket: &PathBuf, stack: &str, what: &str) -> std::io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = json!({"command": "note_stack", "stack": stack, "what": what});
    stream.write_all(format!("{request}\n").as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream.take(MAX_ANSWER)).read_line(&mut answer)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_forwarder_is_sent_one_line_and_one_that_does_not_answer_holds_nothing_up() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("forwarder.sock");
        assert!(ask(&socket, "media", "down").is_err());
        let listener = UnixListener::bind(&socket).unwrap();
        let asked = std::thread::spawn(move || {
            let mut line = String::new();
            BufReader::new(listener.accept().unwrap().0).read_line(&mut line).unwrap();
            line
        });
        ask(&socket, "media", "recreated web").unwrap();
        let line = asked.join().unwrap();
        assert_eq!(line, "{\"command\":\"note_stack\",\"stack\":\"media\",\"what\":\"recreated web\"}\n");
    }
}
