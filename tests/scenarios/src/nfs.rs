//! A real NFS server in user space: the kernels of labs have none.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;
use lab::{Node, Process};

use crate::web::wait_for_port;

/// An nfs-ganesha that exports one folder as `/export`, NFS version 4 only, on port 2049 of every
/// address.
#[derive(Debug)]
pub struct NfsServer {
    /// The running server.
    pub process: Process,
    folder: PathBuf,
}

impl NfsServer {
    /// Starts it on a node.
    pub fn start(node: &Node) -> Result<Self> {
        let folder = node.directory().join("nfs");
        fs::create_dir_all(folder.join("export"))?;
        node.shell(
            "mkdir -p /run/ganesha && mount -t tmpfs tmpfs /var/lib/nfs && mkdir -p /var/lib/nfs/ganesha",
        )?;
        let file = folder.join("ganesha.conf");
        fs::write(&file, configuration(&folder))?;
        let command = node.command("ganesha.nfsd").args(["-F", "-L", "STDOUT", "-f"]).arg(&file);
        let process = command.arg("-p").arg(folder.join("pid")).spawn("nfs")?;
        wait_for_port(node, "127.0.0.1:2049")?;
        Ok(Self { process, folder })
    }

    /// The exported folder.
    pub fn export(&self) -> PathBuf {
        self.folder.join("export")
    }
}

/// Reads a file of an NFS server from a node by libnfs, a client in user space.
pub fn read(node: &Node, server: &str, port: u16, file: &str) -> Result<Vec<u8>> {
    let url = format!("nfs://{server}/export/{file}?version=4&nfsport={port}");
    let output = node.command("nfs-cat").arg(&url).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "nfs-cat {url}: {}\n{said}", output.status);
    Ok(output.stdout)
}

fn configuration(folder: &std::path::Path) -> String {
    let folder = folder.display();
    format!(
        "NFS_CORE_PARAM {{ Protocols = 4; NFS_Port = 2049; Enable_NLM = false; Enable_RQUOTA = false; Enable_UDP = false; }}
NFSV4 {{ Graceless = true; RecoveryRoot = {folder}; }}
EXPORT {{ Export_Id = 1; Path = {folder}/export; Pseudo = /export; Access_Type = RW; Squash = No_Root_Squash;
    SecType = sys; Protocols = 4; FSAL {{ Name = VFS; }} }}
"
    )
}
