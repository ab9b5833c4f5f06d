"""The converted dataset: COCO records, masks, prompts, images and batches."""
