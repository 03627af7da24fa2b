//! TLS between client and agent: only who shows the right certificate is talked to, and whoever does
//! not is told what is wrong with which, before anything secret was said.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sqlrep_tests::ctl::{Ctl, exit};
use sqlrep_tests::{Agent, AgentOptions, ApiServer, Said, World, scenario};

use crate::binaries;
use crate::damage::free_port;

const TOKEN: &str = "tokenmark-1f3e5d7c9b0a";

/// Authorities and certificates, made by the openssl program.
struct Papers<'w>(&'w World);

impl Papers<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }

    fn openssl(&self, words: &[&str]) -> Result<()> {
        let mut command = Command::new("openssl");
        let said = command.args(words).current_dir(self.path("")).output();
        let said = said.context("the openssl program makes certificates: install openssl")?;
        ensure!(
            said.status.success(),
            "{words:?}: {}",
            String::from_utf8_lossy(&said.stderr)
        );
        Ok(())
    }

    fn key(&self, words: &[&str], name: &str) -> Result<()> {
        let (key, subject) = (format!("{name}.key"), format!("/CN={name}"));
        let curve = [
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
        ];
        let rest = ["-keyout", key.as_str(), "-subj", subject.as_str()];
        self.openssl(&[&["req"], words, &curve, &rest].concat())
    }

    /// An authority.
    fn authority(&self, name: &str) -> Result<()> {
        let out = format!("{name}.pem");
        self.key(&["-x509", "-days", "30", "-out", &out], name)
    }

    /// A certificate for these names, signed by an authority, for so many days.
    fn certificate(&self, name: &str, by: &str, names: &str, days: &str) -> Result<()> {
        let at = |end: &str| format!("{name}.{end}");
        let (ca, ca_key) = (format!("{by}.pem"), format!("{by}.key"));
        self.key(&["-out", &at("csr")], name)?;
        fs::write(self.path(&at("ext")), format!("subjectAltName={names}\n"))?;
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            &at("csr"),
            "-CA",
            &ca,
            "-CAkey",
            &ca_key,
            "-CAcreateserial",
            "-days",
            days,
            "-extfile",
            &at("ext"),
            "-out",
            &at("pem"),
        ])
    }

    fn flags(&self, flag: [&str; 3], ca: &str, name: &str) -> Vec<String> {
        let files = [
            format!("{ca}.pem"),
            format!("{name}.pem"),
            format!("{name}.key"),
        ];
        let each = flag.into_iter().zip(files);
        each.flat_map(|(flag, file)| [flag.to_owned(), self.path(&file).display().to_string()])
            .collect()
    }

    /// An agent that shows this certificate, and its port.
    fn agent(&self, api: &ApiServer, name: &str) -> Result<(Agent, u16)> {
        let port = free_port()?;
        let mut options = AgentOptions::kube(api.kubeconfig(self.0)?);
        options.node = Some(name.to_owned());
        let options = options.flag("--listen", &format!("0.0.0.0:{port}"));
        let flags = self.flags(["--client-ca", "--tls-cert", "--tls-key"], "ours", name);
        let flags = flags.chunks(2);
        let options = flags.fold(options, |options, pair| options.flag(&pair[0], &pair[1]));
        Ok((self.0.agent_with(options)?, port))
    }

    /// What a client with this certificate says of an agent.
    fn list(&self, port: u16, ca: &str, name: &str) -> Result<Said> {
        let flags = self.flags(["--tls-ca", "--tls-cert", "--tls-key"], ca, name);
        client(self.0, port).run(flags.iter().map(String::as_str).chain(["list"]))
    }
}

fn client(world: &World, port: u16) -> Ctl {
    let ctl = Ctl::new(&world.binaries.ctl, Some(format!("127.0.0.1:{port}")));
    ctl.env("SQLREP_TOKEN", TOKEN)
}

/// Whether a token has come to anybody who asked whose it is.
fn told(api: &ApiServer) -> bool {
    let requests = api.requests();
    requests
        .iter()
        .any(|request| request.contains("tokenreviews"))
}

#[test]
fn only_the_right_certificates_meet_and_what_is_wrong_with_others_is_said() {
    scenario("tls", binaries(), |world| {
        let (papers, api) = (Papers(world), ApiServer::start()?);
        api.know(TOKEN, "jane");
        let here = "IP:127.0.0.1,DNS:localhost";
        papers.authority("ours")?;
        papers.authority("other")?;
        papers.certificate("good", "ours", here, "30")?;
        papers.certificate("expired", "ours", here, "-1")?;
        papers.certificate("elsewhere", "ours", "DNS:agent.example", "30")?;
        papers.certificate("foreign", "other", here, "30")?;
        papers.certificate("client", "ours", "DNS:client", "30")?;
        papers.certificate("late", "ours", "DNS:client", "-1")?;
        papers.certificate("stranger", "other", "DNS:client", "30")?;

        // The agent's certificate is not believed: nothing was said to it.
        for (name, words) in [
            ("foreign", ["UnknownIssuer", "did not sign its certificate"]),
            ("expired", ["expired", "a new certificate"]),
            (
                "elsewhere",
                ["not valid for name", "as its certificate does"],
            ),
        ] {
            let (_agent, port) = papers.agent(&api, name)?;
            let said = papers
                .list(port, "ours", "client")?
                .exits(exit::UNREACHABLE)?;
            said.says(&[
                "cannot connect to the agent at 127.0.0.1",
                words[0],
                words[1],
            ])?;
            ensure!(!told(&api), "{name}: it was told the token");
        }
        let (agent, port) = papers.agent(&api, "good")?;
        let said = papers
            .list(port, "other", "client")?
            .exits(exit::UNREACHABLE)?;
        said.says(&["UnknownIssuer", "other.pem", "--tls-ca"])?;
        // Ours is not believed: it is not let in, whatever token it has.
        for name in ["stranger", "late"] {
            let said = papers.list(port, "ours", name)?.exits(exit::UNREACHABLE)?;
            said.says(&[
                "lost the agent",
                "must have signed our --tls-cert",
                "expired",
            ])?;
            ensure!(!told(&api), "{name}: it was let in");
        }
        // Who speaks no TLS gets nowhere, and is told what to give.
        let said = client(world, port)
            .run(["list"])?
            .exits(exit::UNREACHABLE)?;
        said.says(&["lost the agent", "both must speak TLS (--tls-ca)"])?;
        ensure!(!told(&api), "it was let in");
        let said = papers.list(port, "missing", "client")?.exits(exit::USAGE)?;
        said.says(&["--tls-ca", "missing.pem", "No such file"])?;
        // And the right ones meet.
        papers.list(port, "ours", "client")?.done()?;
        ensure!(told(&api), "the token did not come");
        ensure!(
            agent.log()?.matches(TOKEN).count() == 0,
            "the token is in the log"
        );
        Ok(())
    });
}

#[test]
fn what_answers_without_tls_is_told_nothing() {
    scenario("tls-plain", binaries(), |world| {
        let papers = Papers(world);
        papers.authority("ours")?;
        papers.certificate("client", "ours", "DNS:client", "30")?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let heard = thread::spawn(move || -> Result<Vec<u8>> {
            let (mut socket, _) = listener.accept()?;
            socket.set_read_timeout(Some(Duration::from_secs(1)))?;
            // An empty SETTINGS, as an agent without TLS begins.
            socket.write_all(b"\0\0\0\x04\0\0\0\0\0")?;
            let (mut heard, mut piece) = (Vec::new(), [0; 4096]);
            while let Ok(read @ 1..) = socket.read(&mut piece) {
                heard.extend_from_slice(&piece[..read]);
            }
            Ok(heard)
        });
        let said = papers
            .list(port, "ours", "client")?
            .exits(exit::UNREACHABLE)?;
        said.says(&["does the agent serve TLS there"])?;
        let heard = heard.join().expect("no panic")?;
        ensure!(heard.first() == Some(&0x16), "no TLS was spoken: {heard:?}");
        let token = TOKEN.as_bytes();
        ensure!(
            !heard.windows(token.len()).any(|bytes| bytes == token),
            "the token was sent"
        );
        Ok(())
    });
}
