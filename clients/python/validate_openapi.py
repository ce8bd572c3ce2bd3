"""Reads an OpenAPI document from standard input; ends with 1 and what is wrong with it if anything is."""

import json
import sys

from openapi_spec_validator import OpenAPIV31SpecValidator

try:
    problems = [
        "/".join(map(str, problem.absolute_path)) + " " + problem.message
        for problem in OpenAPIV31SpecValidator(json.load(sys.stdin)).iter_errors()
    ]
except Exception as error:  # references that lead nowhere
    problems = [f"{type(error).__name__}: {str(error)[:200]}"]
print("\n".join(problems), end="")
sys.exit(1 if problems else 0)
