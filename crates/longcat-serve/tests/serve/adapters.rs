//! Adapters of the folder, uploaded ones and pulled ones.

use std::collections::BTreeSet;
use std::fs;
use std::thread::scope;

use serde_json::{Value, json};

use crate::fake::Fake;
use crate::server::{Local, quick};

const GOOD: &[u8] = b"fake adapter with some weights";

#[test]
fn adapters_are_listed_uploaded_used_and_removed() {
    let loras = tempfile::tempdir().unwrap();
    fs::write(loras.path().join("style.safetensors"), GOOD).unwrap();
    fs::write(loras.path().join("broken.safetensors"), b"what is this").unwrap();
    fs::write(loras.path().join("notes.txt"), b"no adapter").unwrap();
    fs::write(loras.path().join(".hidden.safetensors"), GOOD).unwrap();
    let peft = loras.path().join("peft");
    fs::create_dir(&peft).unwrap();
    fs::write(peft.join("adapter_config.json"), b"{}").unwrap();
    fs::write(peft.join("adapter_model.safetensors"), GOOD).unwrap();
    let server = Local::with(quick(), |options| options.loras = Some(loras.path().into()));
    let mut client = server.client();

    let list = client.get("/v1/adapters").json();
    let ids: Vec<&str> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| a["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["broken.safetensors", "peft", "style.safetensors"]);
    let broken = &list["data"][0];
    assert_eq!(broken["usable"], false);
    // What the command line says, but for where the file lies.
    let problem = "broken.safetensors: not a safetensors file";
    assert_eq!(broken["problems"][0], problem);
    assert_eq!(list["data"][2]["layers"], 24);

    let upload = client.post_form(
        "/v1/adapters",
        &[("file", Some("../../My Style.safetensors"), GOOD)],
    );
    assert_eq!(upload.status, 201);
    let uploaded = upload.json();
    assert_eq!(
        (&uploaded["id"], &uploaded["source"]),
        (&json!("My_Style.safetensors"), &json!("upload"))
    );
    // Another one of that name, and one that the folder has.
    let again = client
        .post_form(
            "/v1/adapters",
            &[("file", Some("My Style.safetensors"), GOOD)],
        )
        .json();
    assert_eq!(again["id"], "My_Style-2.safetensors");
    let taken = client
        .post_form("/v1/adapters", &[("file", Some("style.safetensors"), GOOD)])
        .json();
    assert_eq!(taken["id"], "style-2.safetensors");
    let parts = [
        ("file", Some("m.safetensors"), GOOD),
        ("config", Some("c.json"), &b"{}"[..]),
    ];
    let folder = client.post_form("/v1/adapters", &parts).json();
    assert_eq!(
        (&folder["id"], &folder["usable"]),
        (&json!("m"), &json!(true))
    );

    let refused = client.post_form(
        "/v1/adapters",
        &[("file", Some("bad.safetensors"), b"nonsense")],
    );
    assert_eq!((refused.status, refused.param()), (422, "file".into()));
    let problems = &refused.json()["error"]["problems"];
    assert_eq!(problems.as_array().unwrap().len(), 2);
    assert!(
        !refused
            .message()
            .contains(&*server.data().to_string_lossy()),
        "{}",
        refused.message()
    );
    let kept = fs::read_dir(server.data().join("adapters"))
        .unwrap()
        .count();
    assert_eq!(kept, 4);
    assert_eq!(
        fs::read_dir(server.data().join("incoming"))
            .unwrap()
            .count(),
        0
    );

    let uses =
        json!([{"id": "My_Style.safetensors", "strength": 0.5, "scope": "attn"}, {"id": "peft"}]);
    let video = client.make(&json!({"prompt": "a", "adapters": uses}));
    assert_eq!(video["settings"]["adapters"][1]["strength"], 1.0);
    for (id, member) in [
        ("broken.safetensors", "id"),
        ("notes.txt", "id"),
        ("../peft", "id"),
    ] {
        let reply = client.post(
            "/v1/videos",
            &json!({"prompt": "a", "adapters": [{"id": id}]}),
        );
        assert_eq!(
            (reply.status, reply.param()),
            (422, format!("adapters[0].{member}"))
        );
    }
    let nowhere = json!({"prompt": "a", "adapters": [{"id": "peft", "scope": "nowhere"}]});
    assert_eq!(
        client.post("/v1/videos", &nowhere).param(),
        "adapters[0].scope"
    );

    assert_eq!(client.get("/v1/adapters/peft").json()["rank"], "8");
    assert_eq!(client.delete("/v1/adapters/peft").status, 409);
    assert_eq!(client.delete("/v1/adapters/m").json()["deleted"], true);
    assert_eq!(client.delete("/v1/adapters/m").status, 404);
    assert!(peft.is_dir());
}

#[test]
fn adapters_that_were_pulled_are_found_anew_used_and_kept() {
    let cache = tempfile::tempdir().unwrap();
    let put = |place: &str, bytes: &[u8]| {
        let path = cache.path().join(place);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    };
    let fake = Fake {
        pulled: Some(cache.path().to_path_buf()),
        ..quick()
    };
    let server = Local::start(fake);
    let mut client = server.client();
    assert_eq!(client.get("/v1/adapters").json()["data"], json!([]));

    let kept = put("owner/styles/lora/ink.safetensors", GOOD);
    put("owner/styles/broken.safetensors", b"what is this");
    client.post_form("/v1/adapters", &[("file", Some("own.safetensors"), GOOD)]);
    let list = client.get("/v1/adapters").json();
    let shown: Vec<[&Value; 5]> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| ["id", "name", "source", "repository", "usable"].map(|member| &a[member]))
        .collect();
    let id = "owner~styles~lora~ink.safetensors";
    let expected = json!([
        ["own.safetensors", "own", "upload", null, true],
        [
            "owner~styles~broken.safetensors",
            "owner/styles/broken",
            "pulled",
            "owner/styles",
            false
        ],
        [id, "owner/styles/lora/ink", "pulled", "owner/styles", true],
    ]);
    assert_eq!(json!(shown), expected);
    // Where it lies is not told.
    let problem = "broken.safetensors: not a safetensors file";
    assert_eq!(list["data"][1]["problems"][0], problem);

    let uses = |id: &str| json!({"prompt": "a", "adapters": [{"id": id}]});
    let video = client.make(&uses(id));
    assert_eq!(video["settings"]["adapters"][0]["id"], id);
    for id in [
        "owner~styles~broken.safetensors",
        "owner/styles/lora/ink.safetensors",
        "owner~styles~..~styles~lora~ink.safetensors",
    ] {
        let reply = client.post("/v1/videos", &uses(id));
        let told = (reply.status, reply.param());
        assert_eq!(told, (422, "adapters[0].id".into()), "{id}");
    }
    let address = format!("/v1/adapters/{id}");
    assert_eq!(client.get(&address).json()["layers"], 24);
    let refused = client.delete(&address);
    assert_eq!(refused.status, 409);
    assert!(
        refused.message().contains("pulled from owner/styles"),
        "{}",
        refused.message()
    );
    assert!(kept.is_file());

    // Another file of the same name is looked at again, and one that is gone is no longer offered.
    put(
        "owner/styles/broken.safetensors",
        b"fake adapter, whole now",
    );
    let address = "/v1/adapters/owner~styles~broken.safetensors";
    assert_eq!(client.get(address).json()["usable"], true);
    fs::remove_file(kept).unwrap();
    assert_eq!(client.post("/v1/videos", &uses(id)).status, 422);
}

#[test]
fn an_adapter_that_is_gone_fails_the_job_and_says_so() {
    let server = Local::start(quick());
    let mut client = server.client();
    let id = client
        .post_form("/v1/adapters", &[("file", Some("a.safetensors"), GOOD)])
        .json()["id"]
        .clone();
    let blocker = client.create(&json!({"prompt": "slow", "steps": 5}));
    let job = client.create(&json!({"prompt": "a", "adapters": [{"id": id}]}));
    client.delete("/v1/adapters/a.safetensors");
    let failed = client.wait(&job, &["failed"]);
    assert_eq!(failed["error"]["code"], "invalid");
    let message = failed["error"]["message"].as_str().unwrap();
    assert!(message.contains("a.safetensors"), "{message}");
    assert_eq!(client.wait(&blocker, &["completed"])["error"], Value::Null);
}

#[test]
fn adapters_of_one_name_that_come_at_once_are_all_kept() {
    let server = Local::start(quick());
    let ids: BTreeSet<String> = scope(|scope| {
        let upload = || {
            let parts = [("file", Some("style.safetensors"), GOOD)];
            let adapter = server.client().post_form("/v1/adapters", &parts).json();
            adapter["id"].as_str().unwrap().to_string()
        };
        let uploads: Vec<_> = (0..16).map(|_| scope.spawn(upload)).collect();
        uploads
            .into_iter()
            .map(|upload| upload.join().unwrap())
            .collect()
    });
    assert_eq!(ids.len(), 16, "{ids:?}");
}

#[test]
fn forms_that_are_none_are_refused() {
    let server = Local::start(quick());
    let mut client = server.client();
    for (parts, status) in [
        (&[][..], 400),
        (&[("config", Some("c.json"), &b"{}"[..])], 400),
        (&[("file", Some("a.safetensors"), &b""[..])], 400),
        (&[("file", Some("a"), GOOD), ("file", Some("b"), GOOD)], 400),
        (&[("other", None, &b"x"[..])], 400),
    ] {
        assert_eq!(
            client.post_form("/v1/adapters", parts).status,
            status,
            "{parts:?}"
        );
    }
    assert_eq!(client.post("/v1/adapters", &json!({})).status, 415);
    assert_eq!(client.get("/v1/adapters").json()["data"], json!([]));
}
