//! A server for one script: `portcullis dev` with data of its own, and the applications of `interop/clients.json` registered.
//! Clients may register themselves, and people may come from another provider, which the script starts that is about it.
use crate::ports::lasting_address;
use crate::workspace::Workspace;
use crate::{Failure, mini_http};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// No answer of the server takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who shows this may register a client. 32 characters or more.
const REGISTRATION_TOKEN: &str = "only-for-these-scripts-and-long-enough";
/// Where data and settings are.
const DATA: &str = "data";

/// A running server. It ends with its value.
pub struct Place {
    child: Child,
    folder: PathBuf,
    told: Value,
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Place {
    /// Starts one that signs with `algorithm`.
    pub fn start(workspace: &Workspace, server: &Path, algorithm: &str) -> Result<Self, Failure> {
        let folder = workspace.target.join("interop/place");
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(folder.join(DATA))?;
        let upstream = upstream(&folder.join(DATA))?;
        let mut command = Command::new(server);
        command
            .args(["dev", "--port", "0", "--json", "--data", DATA])
            .current_dir(&folder)
            // Passwords are hashed cheaply and refusals answered at once: neither is what is tried here.
            .env("PORTCULLIS_ARGON2_MEMORY", "64KiB")
            .env("PORTCULLIS_ARGON2_PASSES", "1")
            .env("PORTCULLIS_FAILED_SIGN_IN_STEP", "0s")
            .env("PORTCULLIS_TOKEN_ALGORITHM", algorithm)
            .env("PORTCULLIS_DYNAMIC_REGISTRATION", "token")
            .env("PORTCULLIS_REGISTRATION_TOKEN", REGISTRATION_TOKEN)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(folder.join("server.log"))?);
        let child = command.spawn().map_err(|error| Failure::Missing(format!("{}: {error}", server.display())))?;
        let mut place = Self { child, folder, told: Value::Null };
        place.told = place.first_line()?;
        place.told["algorithm"] = algorithm.into();
        place.told["registration_token"] = REGISTRATION_TOKEN.into();
        place.told["upstream"] = upstream;
        place.register(&workspace.root.join("interop/clients.json"))?;
        Ok(place)
    }

    /// Where the script may leave files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the script is told: addresses, people, clients.
    pub fn told(&self) -> Result<String, Failure> {
        serde_json::to_string(&self.told).map_err(|error| Failure::Missing(error.to_string()))
    }

    /// What `dev` says when it is ready.
    fn first_line(&mut self) -> Result<Value, Failure> {
        let mut line = String::new();
        if let Some(out) = self.child.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        serde_json::from_str(&line).map_err(|_| {
            let log = std::fs::read_to_string(self.folder.join("server.log")).unwrap_or_default();
            Failure::Missing(format!("the server did not start: {log}"))
        })
    }

    fn register(&mut self, file: &Path) -> Result<(), Failure> {
        let port = lasting_address().port();
        let text = std::fs::read_to_string(file)?.replace("{port}", &port.to_string());
        let wanted: Value =
            serde_json::from_str(&text).map_err(|error| Failure::Missing(format!("{}: {error}", file.display())))?;
        let address = text_of(&self.told["server"]).trim_start_matches("http://").parse();
        let address: SocketAddr = address.map_err(|_| Failure::Missing("the server has no address".into()))?;
        let admin = json!({ "identifier": self.told["admin"]["email"], "password": self.told["admin"]["password"] });
        let token = post(address, "/v1/sessions", None, &admin)?["access_token"].take();
        for (name, body) in wanted.as_object().into_iter().flatten() {
            self.told["clients"][name] = post(address, "/v1/admin/clients", token.as_str(), body)?;
        }
        self.told["port"] = port.into();
        Ok(())
    }
}

/// Names another provider in the settings of this data directory; what the script must know to be it. Nobody calls it before
/// somebody wants to come from there.
fn upstream(data: &Path) -> Result<Value, Failure> {
    let port = lasting_address().port();
    let (issuer, secret) = (format!("http://127.0.0.1:{port}"), "only-for-these-scripts");
    let table = format!(
        "[[upstream]]\nid = \"elsewhere\"\nname = \"Elsewhere\"\nissuer = \"{issuer}\"\nclient_id = \"portcullis\"\n\
         client_secret = \"{secret}\"\n"
    );
    std::fs::write(data.join("portcullis.toml"), table)?;
    Ok(json!({
        "id": "elsewhere", "issuer": issuer, "port": port, "client_id": "portcullis", "client_secret": secret,
    }))
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn post(address: SocketAddr, path: &str, token: Option<&str>, body: &Value) -> Result<Value, Failure> {
    let answer = mini_http::request_as(address, "POST", path, token, Some(&body.to_string()), PATIENCE)?;
    let read = serde_json::from_str(&answer.body).ok().filter(|_| answer.status == 201);
    read.ok_or_else(|| Failure::Missing(format!("POST {path} {body}: {} {}", answer.status, answer.body)))
}
