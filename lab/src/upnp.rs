//! The port mapper of a home router: `miniupnpd`, which speaks PCP, NAT-PMP and UPnP IGD.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::namespace::Namespace;
use crate::site::{LAN, WAN};
use crate::{inside, tools};

/// A port mapper that runs. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct PortMapper {
    daemon: Child,
}

impl PortMapper {
    /// Starts it in a home router, and waits until it listens.
    ///
    /// # Errors
    /// `miniupnpd` is not installed, or does not start.
    pub(crate) fn start(router: &Namespace) -> Result<Self> {
        ensure!(
            tools::is_installed("miniupnpd"),
            "miniupnpd is missing: apt-get install miniupnpd-nftables"
        );
        tools::nft(router, CHAINS)?;
        let dir = inside::scratch(&tools::unique("miniupnpd"))?;
        let config = dir.join("config");
        let text = format!("ext_ifname={WAN}\nlistening_ip={LAN}\nhttp_port=0\n{SETTINGS}");
        std::fs::write(&config, text).context("cannot write the port mapper's settings")?;
        let mut command = Command::new("miniupnpd");
        command.arg("-d").arg("-f").arg(&config).arg("-P").arg(dir.join("pid"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut daemon = router.spawn(&mut command)?.context("cannot start miniupnpd")?;
        let mut errors = BufReader::new(daemon.stderr.take().context("the pipe was asked for")?);
        let (mut said, mut line) = (String::new(), String::new());
        while !line.contains("Listening for NAT-PMP/PCP") {
            line.clear();
            let length = errors.read_line(&mut line).context("cannot read from miniupnpd")?;
            ensure!(length > 0, "miniupnpd does not start: {}", said.trim());
            said.push_str(&line);
        }
        // It goes on talking; a pipe that nobody reads would stop it.
        std::thread::spawn(move || std::io::copy(&mut errors, &mut std::io::sink()));
        Ok(Self { daemon })
    }
}

impl Drop for PortMapper {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

const SETTINGS: &str = "\
enable_natpmp=yes
enable_upnp=yes
secure_mode=yes
uuid=5c1b5e0e-2a54-4b5e-9c2e-7d0a6a3f1d11
upnp_table_name=upnp
upnp_nat_table_name=upnp
upnp_forward_chain=allowed
upnp_nat_chain=mapped
upnp_nat_postrouting_chain=mapped-out
allow 1024-65535 192.168.1.0/24 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
";

/// What the daemon fills. The router lets in what was translated on its way in.
const CHAINS: &str = "
table inet upnp {
  chain through {
    type filter hook forward priority filter - 2
    jump allowed
  }
  chain before {
    type nat hook prerouting priority dstnat - 1
    jump mapped
  }
  chain after {
    type nat hook postrouting priority srcnat - 1
    jump mapped-out
  }
  chain allowed {
  }
  chain mapped {
  }
  chain mapped-out {
  }
}";
