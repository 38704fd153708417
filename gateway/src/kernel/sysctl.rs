//! Reads and writes switches under `/proc/sys/net`.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::protocol::{Failure, FailureKind};

/// The values of `paths`, in their order; `None` for a switch that this kernel does not have.
pub(super) fn read(paths: &[String]) -> Result<Vec<Option<String>>, Failure> {
    paths
        .iter()
        .map(|path| match fs::read_to_string(locate(path)?) {
            Ok(value) => Ok(Some(value.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::new(FailureKind::Kernel, format!("/proc/sys/{path}: {error}"))),
        })
        .collect()
}

/// Writes each switch that has another value; those that could not be written come back with the
/// reason.
pub(super) fn write(values: &[(String, String)]) -> Result<Vec<(String, String, String)>, Failure> {
    let mut unwritable = Vec::new();
    for (path, value) in values {
        let file = locate(path)?;
        match fs::read_to_string(&file) {
            Ok(had) if had.trim() == value => continue,
            // A kernel without IPv6 has no switches for it, and needs none.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            _ => {}
        }
        if let Err(error) = fs::write(&file, value) {
            unwritable.push((path.clone(), value.clone(), error.to_string()));
        }
    }
    Ok(unwritable)
}

/// The file of a switch below `net`, refusing everything else.
fn locate(path: &str) -> Result<PathBuf, Failure> {
    let mut parts = path.split('/');
    let fits = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-@:+".contains(&byte))
    };
    if parts.next() == Some("net") && parts.clone().next().is_some() && parts.all(fits) {
        return Ok(PathBuf::from("/proc/sys").join(path));
    }
    Err(Failure::new(FailureKind::Refused, format!("{path:?} is no switch of the network")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_switches_of_the_network_are_touched() {
        for bad in
            ["kernel/core_pattern", "net", "net/", "net/../kernel/x", "/net/ipv4/ip_forward", "net//x", ""]
        {
            assert!(locate(bad).is_err(), "{bad:?}");
        }
        assert!(locate("net/ipv4/conf/eth0.100/rp_filter").is_ok());
    }

    #[test]
    fn a_switch_this_kernel_lacks_reads_as_none() {
        assert_eq!(read(&["net/ipv4/no_such_switch".to_owned()]).unwrap(), [None]);
    }
}
