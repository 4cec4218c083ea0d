r"""Code that protoc made from `open_inference.proto`; never edited by hand, and left out of checks of style.

Make it again, from the top of the repository, with grpcio-tools in a virtual environment of its own. Code runs on the
major version of protobuf that made it and on the next one:

    python -m venv protoc-venv && protoc-venv/bin/pip install 'grpcio-tools==1.81.1'
    protoc-venv/bin/python -m grpc_tools.protoc -I platform --python_out=platform --pyi_out=platform \
        --grpc_python_out=platform platform/lightmill/serving/protocols/generated/open_inference.proto
"""
