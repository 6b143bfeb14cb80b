//! What clients ask for, and what they get: every answer is compared with the description.

use serde_json::{Value, json};

use crate::media::{is_animation, mp4, png, shape};
use crate::server::{Local, quick};

fn at(id: &Value, what: &str) -> String {
    format!("/v1/videos/{}{what}", id.as_str().unwrap())
}

#[test]
fn a_video_is_made_and_all_of_it_can_be_fetched() {
    let server = Local::start(quick());
    let mut client = server.client();
    let id = json!(client.create(&json!({"prompt": "a slow circle", "size": "96x64", "seed": 7})));
    assert_eq!(client.get(&at(&id, "/content")).status, 409);

    let mut seen_preview = false;
    let events = client.events(&at(&id, "/events"), |events| {
        let (name, data) = &events[events.len() - 1];
        if name == "preview" && !seen_preview_of(events) {
            let preview = server.client().get(data["url"].as_str().unwrap());
            // The job may just have ended.
            assert!(preview.status == 409 || is_animation(&preview.body));
        }
        false
    });
    seen_preview |= events.iter().any(|(name, _)| name == "preview");
    assert!(seen_preview);
    let status = |(name, data): &(String, Value)| {
        (name == "status").then(|| data["status"].as_str().unwrap().to_string())
    };
    let states: Vec<String> = events.iter().filter_map(status).collect();
    assert_eq!(states.last().unwrap(), "completed", "{states:?}");
    let steps: Vec<f64> = events
        .iter()
        .filter(|(name, _)| name == "step")
        .map(|(_, data)| data["progress"].as_f64().unwrap())
        .collect();
    assert!(steps.len() > 8 && steps.is_sorted(), "{steps:?}");

    let video = client.video(id.as_str().unwrap());
    assert_eq!(
        (&video["size"], &video["frames"]),
        (&json!("96x64"), &json!(17))
    );
    let content = client.get(&at(&id, "/content"));
    assert_eq!(shape(&content.body), ("96x64".into(), 17));
    let part = client.send(
        "GET",
        &at(&id, "/content"),
        &[("Range", "bytes=10-19")],
        b"",
    );
    assert_eq!((part.status, &part.body[..]), (206, &content.body[10..20]));
    let beyond = [("Range", "bytes=99999999-")];
    assert_eq!(
        client
            .send("GET", &at(&id, "/content"), &beyond, b"")
            .status,
        416
    );
    let latents = client.get(&at(&id, "/latents"));
    assert_eq!(latents.body, b"latents of seed 7");
    assert!(
        latents
            .header("content-disposition")
            .unwrap()
            .starts_with("attachment")
    );
    let settings = client.get(&at(&id, "/settings")).json();
    assert_eq!(
        (&settings["request"]["seed"], &settings["made"]["seed"]),
        (&json!(7), &json!(7))
    );
    for what in ["/thumbnail", "/content?variant=thumbnail"] {
        let picture = client.get(&at(&id, what));
        let picture = image::load_from_memory(&picture.body).unwrap();
        assert_eq!((picture.width(), picture.height()), (96, 64));
    }
    assert_eq!(client.get(&at(&id, "/preview")).status, 409);
    assert_eq!(client.get(&at(&id, "/input")).status, 404);

    assert_eq!(client.delete(&at(&id, "")).json()["deleted"], true);
    for what in ["", "/content", "/settings", "/events"] {
        assert_eq!(client.get(&at(&id, what)).status, 404, "{what}");
    }
    assert!(
        !server
            .data()
            .join("videos")
            .join(id.as_str().unwrap())
            .exists()
    );
}

fn seen_preview_of(events: &[(String, Value)]) -> bool {
    let before = &events[..events.len() - 1];
    before.iter().any(|(name, _)| name == "preview")
}

#[test]
fn what_is_given_says_what_is_made() {
    let server = Local::start(quick());
    let mut client = server.client();
    let (picture, clip) = (png(40, 30), mp4(32, 9));
    let mut form = |parts: &[crate::client::Part<'_>]| {
        let reply = client.post_form("/v1/videos", parts);
        assert_eq!(reply.status, 200, "{}", reply.json());
        let id = reply.json()["id"].as_str().unwrap().to_string();
        client.wait(&id, &["completed"])
    };
    // As OpenAI's clients send it.
    let image = form(&[
        ("model", None, b"sora-2"),
        ("prompt", None, b"a cat"),
        ("seconds", None, b"2"),
        ("size", None, b"96x64"),
        ("input_reference", Some("cat.bin"), &picture),
    ]);
    assert_eq!(
        (&image["mode"], &image["frames"]),
        (&json!("image"), &json!(33))
    );
    let request = json!({"prompt": "more", "cond_frames": 5, "adapters": []}).to_string();
    let video = form(&[
        ("video", Some("clip.mp4"), &clip),
        ("request", None, request.as_bytes()),
    ]);
    assert_eq!(video["mode"], "continue");
    assert_eq!(video["settings"]["cond_frames"], 5);
    let long = form(&[
        ("prompt", None, b"one"),
        ("prompt", None, b"two"),
        ("seed", None, b"3"),
    ]);
    assert_eq!(long["settings"]["prompts"], json!(["one", "two"]));
    assert_eq!(
        (&long["mode"], &long["frames"]),
        (&json!("text"), &json!(34))
    );

    // Earlier jobs lend their results, prompts and uploads.
    let refined = client.make(&json!({"mode": "refine", "from": long["id"]}));
    assert_eq!(
        (&refined["prompt"], &refined["fps"]),
        (&json!("two"), &json!(30.0))
    );
    assert_eq!(refined["remixed_from_video_id"], long["id"]);
    let continued = client.make(&json!({"from": image["id"], "prompt": "and then"}));
    assert_eq!(continued["mode"], "continue");
    let again = client.make(&json!({"input_from": image["id"], "prompt": "a dog"}));
    assert_eq!(
        (&again["mode"], &again["settings"]["input"]),
        (&json!("image"), &json!("image"))
    );
    let input = client.get(&at(&again["id"], "/input"));
    assert_eq!(
        (input.header("content-type"), &input.body),
        (Some("image/png"), &picture)
    );
    // They need what they were made from no longer.
    assert_eq!(client.delete(&at(&image["id"], "")).json()["deleted"], true);
    assert_eq!(client.get(&at(&again["id"], "/input")).body, picture);
}

#[test]
fn the_settings_of_a_video_make_it_again() {
    let server = Local::start(quick());
    let mut client = server.client();
    let asked = json!({"prompts": ["a", "b"], "negative_prompt": "blur", "size": "64x96", "frames": 9,
        "steps": 3, "guidance": 2.5, "refine": true, "cond_frames": 5, "cache": "easy=0.1"});
    let first = client.make(&asked);
    let mut settings = first["settings"].as_object().unwrap().clone();
    assert!(settings["seed"].as_u64().unwrap() < 1 << 53);
    settings.retain(|name, value| name != "input" && !value.is_null());
    let second = client.make(&Value::from(settings));
    assert_eq!(first["settings"], second["settings"]);
    for (name, value) in asked.as_object().unwrap() {
        assert_eq!(first["settings"][name], *value, "{name}");
    }
    let content = |id: &Value| server.client().get(&at(id, "/content")).body;
    assert_eq!(content(&first["id"]), content(&second["id"]));
}

#[test]
fn settings_that_cannot_work_name_their_member() {
    let server = Local::start(quick());
    let mut client = server.client();
    let made = client.make(&json!({"prompt": "a"}))["id"].clone();
    let long = "x".repeat(10_001);
    for (body, status, param) in [
        (json!({}), 422, "prompt"),
        (json!({"prompt": " \n"}), 422, "prompt"),
        (json!({"prompt": long}), 422, "prompt"),
        (json!({"prompt": "a", "prompts": ["b"]}), 422, "prompts"),
        (json!({"prompts": []}), 422, "prompts"),
        (json!({"prompts": vec!["a"; 65]}), 422, "prompts"),
        (json!({"prompt": 3}), 422, "prompt"),
        (json!({"prompt": "a", "size": "64"}), 422, "size"),
        (json!({"prompt": "a", "size": "65x64"}), 422, "size"),
        (json!({"prompt": "a", "size": "16000x16000"}), 422, "size"),
        (json!({"prompt": "a", "frames": 18}), 422, "frames"),
        (json!({"prompt": "a", "frames": 0}), 422, "frames"),
        (json!({"prompt": "a", "frames": -1}), 422, "frames"),
        (json!({"prompt": "a", "frames": 1e9}), 422, "frames"),
        (
            json!({"prompt": "a", "frames": 17, "seconds": 1}),
            422,
            "seconds",
        ),
        (json!({"prompt": "a", "seconds": "soon"}), 422, "seconds"),
        (json!({"prompt": "a", "seconds": 1e300}), 422, "seconds"),
        (json!({"prompt": "a", "seed": 1u64 << 53}), 422, "seed"),
        (json!({"prompt": "a", "steps": 0}), 422, "steps"),
        (json!({"prompt": "a", "guidance": 101}), 422, "guidance"),
        (json!({"prompt": "a", "cond_frames": 5}), 422, "cond_frames"),
        (
            json!({"prompt": "a", "spatial_only": true}),
            422,
            "spatial_only",
        ),
        (json!({"prompt": "a", "mode": "dream"}), 422, "mode"),
        (json!({"prompt": "a", "mode": "image"}), 422, "image"),
        (json!({"prompt": "a", "mode": "continue"}), 422, "video"),
        (
            json!({"prompt": "a", "mode": "text", "from": made}),
            422,
            "mode",
        ),
        (
            json!({"mode": "refine", "from": made, "guidance": 2}),
            422,
            "guidance",
        ),
        (
            json!({"mode": "refine", "from": made, "refine": true}),
            422,
            "refine",
        ),
        (json!({"prompts": ["a", "b"], "from": made}), 422, "prompts"),
        (
            json!({"prompt": "a", "from": "../../etc/passwd"}),
            422,
            "from",
        ),
        (
            json!({"prompt": "a", "from": made, "input_from": made}),
            422,
            "from",
        ),
        (
            json!({"prompt": "a", "input_from": made}),
            409,
            "input_from",
        ),
        (
            json!({"prompt": "a", "adapters": [{"id": "x"}]}),
            422,
            "adapters[0].id",
        ),
        (
            json!({"prompt": "a", "adapters": [{"id": "x", "strength": 9}]}),
            422,
            "adapters[0].strength",
        ),
        (
            json!({"prompt": "a", "adapters": [{"strength": 1}]}),
            422,
            "adapters[0]",
        ),
        (json!({"prompt": "a", "colour": "red"}), 422, "colour"),
        (json!({"prompt": "refuse"}), 422, "prompt"),
        (json!([]), 400, ""),
    ] {
        let reply = client.post("/v1/videos", &body);
        assert_eq!(
            (reply.status, reply.param()),
            (status, param.into()),
            "{body}: {}",
            reply.json()
        );
    }
    let texts: [(&str, &[u8], u16); 5] = [
        ("application/json", b"{\"prompt\": \"a\"", 400),
        ("application/json", b"\xff\xfe", 400),
        ("application/json", &[b' '; 2 << 20], 413),
        ("text/plain", b"{\"prompt\": \"a\"}", 415),
        ("multipart/form-data", b"", 400),
    ];
    for (kind, body, status) in texts {
        let reply = client.send("POST", "/v1/videos", &[("Content-Type", kind)], body);
        assert_eq!(reply.status, status, "{kind}: {}", reply.json());
    }
    assert_eq!(client.get("/v1/videos").json()["total"], 1);
}

#[test]
fn lists_come_in_pages() {
    let server = Local::start(quick());
    let mut client = server.client();
    let mut ids: Vec<String> = (0..5)
        .map(|seed| client.create(&json!({"prompt": "a", "frames": 5, "seed": seed})))
        .collect();
    for id in &ids {
        client.wait(id, &["completed"]);
    }
    let mut pages = |query: &str| {
        let mut found = Vec::new();
        let mut after = String::new();
        loop {
            let page = client
                .get(&format!("/v1/videos?limit=2{query}{after}"))
                .json();
            assert_eq!(page["total"], 5);
            let data = page["data"].as_array().unwrap();
            found.extend(
                data.iter()
                    .map(|video| video["id"].as_str().unwrap().to_string()),
            );
            match page["has_more"].as_bool().unwrap() {
                true => after = format!("&after={}", page["last_id"].as_str().unwrap()),
                false => return found,
            }
        }
    };
    assert_eq!(pages("&order=asc"), ids);
    assert_eq!(pages("&status=completed&order=asc"), ids);
    ids.reverse();
    assert_eq!(pages(""), ids);
    assert_eq!(client.get("/v1/videos?status=failed").json()["total"], 0);
    for (query, status) in [
        ("limit=0", 422),
        ("limit=x", 400),
        ("status=odd", 422),
        ("x=1", 400),
        ("after=video_1", 422),
    ] {
        assert_eq!(
            client.get(&format!("/v1/videos?{query}")).status,
            status,
            "{query}"
        );
    }
}
