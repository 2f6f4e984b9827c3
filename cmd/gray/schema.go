package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/gray-release/gray/schema"
)

func schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use: "schema [KIND]", Short: "Print the JSON Schema for editors", Args: cobra.MaximumNArgs(1), ValidArgs: schema.Kinds(),
		RunE: func(cmd *cobra.Command, args []string) error {
			kind := ""
			if len(args) > 0 {
				kind = args[0]
			}
			b, err := schema.JSONSchema(kind)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", b)
			return err
		},
	}
}
