"""Other people's JSON as Structs: field names, types and ranges. No logic, nothing of ours."""
