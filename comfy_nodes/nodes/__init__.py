"""One file a node. Ids, inputs and their order are promises to saved workflows: tests/golden/comfy_nodes.json."""
