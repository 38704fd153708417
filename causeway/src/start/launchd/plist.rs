//! The description of the forwarder for launchd (launchd.plist(5)).

use std::path::Path;

use super::accounts::NAME;
use super::{Domain, LABEL};

/// A file without it is another hand's, and is kept.
pub(super) const MARK: &str = "Written by causeway join, which replaces it when it is run again.";

/// The whole file.
pub(super) fn text(domain: &Domain, program: &Path, config: &Path) -> String {
    let state = domain.state();
    let log = state.join("forwarder.log");
    let [program, config, state, log] = [program, config, &state, &log].map(escaped);
    let user = match domain {
        Domain::System => format!("  <key>UserName</key>\n  <string>{NAME}</string>\n"),
        Domain::User { .. } => String::new(),
    };
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<!-- {MARK} -->
<plist version="1.0">
<dict>
  <key>Label</key>
  <string>{LABEL}</string>
  <key>ProgramArguments</key>
  <array>
    <string>{program}</string>
    <string>--config</string>
    <string>{config}</string>
    <string>--log</string>
    <string>{log}</string>
  </array>
  <key>EnvironmentVariables</key>
  <dict>
    <key>RUNTIME_DIRECTORY</key>
    <string>{state}</string>
    <key>STATE_DIRECTORY</key>
    <string>{state}</string>
  </dict>
{user}  <key>RunAtLoad</key>
  <true/>
  <key>KeepAlive</key>
  <true/>
  <key>ThrottleInterval</key>
  <integer>1</integer>
  <key>ExitTimeOut</key>
  <integer>45</integer>
  <key>ProcessType</key>
  <string>Interactive</string>
  <key>Umask</key>
  <integer>63</integer>
  <key>HardResourceLimits</key>
  <dict>
    <key>Core</key>
    <integer>0</integer>
    <key>NumberOfFiles</key>
    <integer>65536</integer>
  </dict>
  <key>SoftResourceLimits</key>
  <dict>
    <key>Core</key>
    <integer>0</integer>
    <key>NumberOfFiles</key>
    <integer>65536</integer>
  </dict>
</dict>
</plist>
"#
    )
}

/// A path as the text of an element.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
