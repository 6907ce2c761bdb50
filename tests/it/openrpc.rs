//! The published description and what is really taken are the same.

use serde_json::{Value, json};

use crate::support::{Client, Gateway, run};
use crate::transport::get;

fn array<'a>(value: &'a Value, name: &str) -> &'a Vec<Value> {
    value[name].as_array().unwrap_or_else(|| panic!("{name} in {value}"))
}

/// A value that suits the schema and means nothing.
fn sample(schema: &Value) -> Value {
    if let Some(word) = schema["enum"].as_array() {
        return word[0].clone();
    }
    match schema["type"].as_str().unwrap() {
        "boolean" => schema["default"].clone(),
        "integer" => schema["minimum"].clone(),
        "array" => json!(["true"]),
        "object" => match schema["properties"].as_object() {
            None => json!({}),
            Some(inner) => inner.iter().map(|(name, schema)| (name.clone(), sample(schema))).collect(),
        },
        "string" => match schema["pattern"].as_str() {
            Some(p) if p.starts_with("^j_") => json!("j_00000000000000000000000000000000"),
            Some(p) if p.starts_with("^s_") => json!("s_00000000000000000000000000000000"),
            Some(p) if p.contains("SIG") => json!("SIGTERM"),
            _ => json!(""),
        },
        other => panic!("{other}"),
    }
}

/// Values that do not suit the schema.
fn wrong(schema: &Value) -> Vec<Value> {
    let mut wrong = vec![Value::Null, json!(1.5), json!([[]])];
    match schema["type"].as_str().unwrap() {
        "integer" => {
            wrong.extend([json!("1"), json!(-1)]);
            let most = schema["maximum"].as_u64().unwrap();
            wrong.extend(most.checked_add(1).map(Value::from));
            wrong.extend(schema["minimum"].as_u64().unwrap().checked_sub(1).map(Value::from));
        }
        "boolean" => wrong.extend([json!(0), json!("true")]),
        "array" => wrong.extend([json!("ls"), json!([1])]),
        "object" => wrong.extend([json!([]), json!({"x": []})]),
        _ => wrong.extend([json!(1), json!({})]),
    }
    if schema.get("enum").is_some() {
        wrong.push(json!("never"));
    }
    wrong
}

#[test]
fn both_ways_give_the_same_document_with_every_method() {
    let gateway = Gateway::start();
    run(async {
        let (status, body) = get(&gateway, "/v1/openrpc.json").await;
        assert_eq!(status, 200);
        let document: Value = serde_json::from_str(&body).unwrap();
        let mut client = Client::connect(&gateway).await;
        assert_eq!(client.call("rpc.discover", json!({})).await.unwrap(), document);
        let names: Vec<_> = array(&document, "methods").iter().map(|m| m["name"].as_str().unwrap()).collect();
        for name in ["server.info", "session.open", "job.start", "job.ack", "policy.explain", "rpc.discover"]
        {
            assert!(names.contains(&name), "{name}");
        }
        assert_eq!(document["components"]["errors"]["busy"]["code"], -32012);
        assert!(document["x-http"]["POST /v1/exec"]["params"].as_array().unwrap().len() > 5);
    });
}

#[test]
fn every_method_takes_exactly_the_parameters_it_is_said_to() {
    let gateway = Gateway::with("[limits]\nrequests_per_second = 100000\n");
    run(async {
        let mut client = Client::connect(&gateway).await;
        let document = client.call("rpc.discover", json!({})).await.unwrap();
        for method in array(&document, "methods") {
            let name = method["name"].as_str().unwrap();
            let params = array(method, "params");
            let message = async |client: &mut Client, params: Value| {
                let error = client
                    .call(name, params.clone())
                    .await
                    .err()
                    .unwrap_or_else(|| panic!("{name} took {params}"));
                assert_eq!(error["data"]["kind"], "invalid_params", "{name} {params}: {error}");
                error["message"].as_str().unwrap().to_owned()
            };
            let required: Value = params
                .iter()
                .filter(|p| p["required"] == true)
                .map(|p| (p["name"].as_str().unwrap().to_owned(), sample(&p["schema"])))
                .collect::<serde_json::Map<_, _>>()
                .into();
            // These want one of two that are each optional.
            let required = if name == "job.stdin" { with(&required, "eof", json!(true)) } else { required };
            let unknown = with(&required, "no_such_member", json!(1));
            assert!(message(&mut client, unknown).await.contains("no_such_member"), "{name}");
            for param in params {
                let member = param["name"].as_str().unwrap();
                if param["required"] == true {
                    let mut less = required.clone();
                    less.as_object_mut().unwrap().remove(member);
                    let said = message(&mut client, less).await;
                    assert!(
                        said.contains("missing") && said.contains(member),
                        "{name} without {member}: {said}"
                    );
                }
                for value in wrong(&param["schema"]) {
                    if param["schema"]["additionalProperties"].is_object() && value == json!({"x": []}) {
                        message(&mut client, with(&required, member, value)).await;
                        continue;
                    }
                    let said = message(&mut client, with(&required, member, value.clone())).await;
                    let inner =
                        said.contains("rows") || said.contains("cols") || said.contains("is not a parameter");
                    assert!(said.contains(member) || inner, "{name}.{member} = {value}: {said}");
                }
                let good = client.call(name, with(&required, member, sample(&param["schema"]))).await;
                if let Err(error) = good {
                    let said = error["message"].as_str().unwrap();
                    assert!(!said.contains("is not a parameter"), "{name}.{member}: {said}");
                }
            }
        }
    });
}

fn with(params: &Value, name: &str, value: Value) -> Value {
    let mut params = params.clone();
    params[name] = value;
    params
}

#[test]
fn only_the_methods_of_the_document_exist() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        for name in [
            "",
            "job",
            "job.",
            "Job.start",
            "job.Start",
            "job.start ",
            "j\u{43e}b.start",
            "rpc.",
            "rpc.Discover",
            "rpc.x",
            "__proto__",
        ] {
            assert_eq!(client.refused(name, json!({})).await, "method_not_found", "{name:?}");
        }
    });
}
