"""What a training step costs on an array: workloads traced from models, policies, reports."""
