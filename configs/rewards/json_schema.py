"""1 for JSON of a schema, ½ for other JSON, 0 for none: --config.ppo.reward=THIS_FILE:json_schema

The schema is that of the row's field `schema`; without one, SCHEMA. It needs `pip install jsonschema`.
"""

import json

import jsonschema

SCHEMA = {"type": "object", "required": ["summary"], "properties": {"summary": {"type": "string"}}}


def of_one(response, schema):
    try:
        value = json.loads(response)
    except (ValueError, RecursionError):
        return 0.0
    return 1.0 if jsonschema.Draft202012Validator(schema).is_valid(value) else 0.5


def json_schema(prompts, responses, rows):
    schemas = [row.get("schema", SCHEMA) for row in rows]
    return [of_one(response, schema) for response, schema in zip(responses, schemas, strict=True)]
